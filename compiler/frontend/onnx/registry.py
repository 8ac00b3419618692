"""Who imports which ONNX operator: `@onnx_op("Gemm")` for tensors, `@size_op("Gather")` for known symbolic sizes.

Functions live in `ops/`, one file a family, found by themselves.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from nomul.frontend.onnx.entry import Entry
    from nomul.frontend.onnx.node import SourceNode

Handler = Callable[["SourceNode"], Any]
SizeHandler = Callable[["SourceNode"], "np.ndarray | Entry | tuple[np.ndarray, ...] | None"]

_HANDLERS: dict[tuple[str, str], Handler] = {}
_SIZE_HANDLERS: dict[str, SizeHandler] = {}


def onnx_op(*names: str, domain: str = "") -> Callable[[Handler], Handler]:
    """Declare the function that adds an operator's nodes and returns its results (see `SourceNode`)."""

    def declare(handler: Handler) -> Handler:
        for name in names:
            if (domain, name) in _HANDLERS:
                raise ValueError(f"ONNX operator {domain}:{name} is declared twice")
            _HANDLERS[domain, name] = handler
        return handler

    return declare


def size_op(*names: str) -> Callable[[SizeHandler], SizeHandler]:
    """Declare how an operator acts on operands that are all known, some of them symbolic (object arrays of Dim).

    The function returns arrays (of Dim, or of bool), or None where the ranges of dims do not decide."""

    def declare(handler: SizeHandler) -> SizeHandler:
        for name in names:
            if name in _SIZE_HANDLERS:
                raise ValueError(f"size operator {name} is declared twice")
            _SIZE_HANDLERS[name] = handler
        return handler

    return declare


@cache
def _load() -> None:
    package = importlib.import_module("nomul.frontend.onnx.ops")
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def find_handler(domain: str, name: str) -> Handler | None:
    _load()
    return _HANDLERS.get((domain, name))


def find_size_handler(domain: str, name: str) -> SizeHandler | None:
    _load()
    return _SIZE_HANDLERS.get(name) if domain == "" else None


def all_handlers() -> dict[tuple[str, str], Handler]:
    """Every declared operator by (domain, name)."""
    _load()
    return dict(_HANDLERS)
