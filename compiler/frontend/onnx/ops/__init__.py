"""ONNX operators, one family a file; `nomul.frontend.onnx.registry` imports every file here by itself."""
