"""nomul compiles a PyTorch or ONNX model ahead of time into one small shared library with a plain C ABI.

`nomul.compile(model, ...)` and `nomul.load(path)` give an Artifact. Users' mistakes raise `nomul.NomulError` while
compiling, and `nomul.RuntimeFault` while loading and running.
"""

from nomul import qat
from nomul.api import Artifact, build, compile, load, lower
from nomul.ir.errors import NomulError
from nomul.runtime.errors import RuntimeFault

__all__ = ["Artifact", "NomulError", "RuntimeFault", "build", "compile", "load", "lower", "qat"]
