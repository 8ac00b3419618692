"""ONNX models become IR modules here. Read `importer.py` first; operators are in `ops/`, one file a family."""
