"""Who imports which ONNX operator: `@onnx_op("Gemm")` for tensors, `@size_op("Gather")` for known symbolic sizes.

Functions live in `ops/`, one file a family, found by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nomul.ir.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from nomul.frontend.onnx.entry import Entry
    from nomul.frontend.onnx.node import SourceNode

Handler = Callable[["SourceNode"], Any]
SizeHandler = Callable[["SourceNode"], "np.ndarray | Entry | tuple[np.ndarray, ...] | None"]

_PACKAGE = "nomul.frontend.onnx.ops"
_OPERATORS: Registry[tuple[str, str], Handler] = Registry(_PACKAGE, "ONNX operator {}")
_SIZE_OPERATORS: Registry[str, SizeHandler] = Registry(_PACKAGE, "size operator {}")


def onnx_op(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Declare the function that adds an operator's nodes and returns its results (see `SourceNode`)."""
    return _OPERATORS.declare(*((domain, name) for name in names))


def size_op(*names: str) -> Callable[[SizeHandler], SizeHandler]:
    """Declare how an operator acts on operands that are all known, some of them symbolic (object arrays of Dim).

    The function returns arrays (of Dim, or of bool), or None where the ranges of dims do not decide."""
    return _SIZE_OPERATORS.declare(*names)


def find_handler(domain: str, name: str) -> Handler | None:
    return _OPERATORS.find((domain, name))


def find_size_handler(domain: str, name: str) -> SizeHandler | None:
    return _SIZE_OPERATORS.find(name) if domain == "" else None


def all_handlers() -> dict[tuple[str, str], Handler]:
    """Every declared operator by (domain, name)."""
    return _OPERATORS.all()
