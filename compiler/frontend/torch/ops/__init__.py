"""Lowerings of ATen ops, one family a file; `nomul.frontend.torch.registry` imports every file here by itself."""
