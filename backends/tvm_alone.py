"""Imports TVM without torch: its ffi package imports torch wherever that is installed, which takes seconds.

Modules that are the first to import tvm import this one before.
"""

from __future__ import annotations

import sys


def _import_tvm() -> None:
    if "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
    try:
        import tvm.s_tir
        import tvm.tirx.script  # noqa: F401
    finally:
        del sys.modules["torch"]


_import_tvm()
