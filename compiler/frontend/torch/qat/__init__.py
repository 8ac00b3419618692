"""Fake encodings for training in PyTorch: forward sees weights as bytes will mean them, gradients pass through."""

from nomul.frontend.torch.qat.prepare import prepare_module

__all__ = ["prepare_module"]
