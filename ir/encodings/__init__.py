"""Weight encodings: what stored bytes mean. One file each, found by themselves; `get_encoding("f16")` makes one.

How to choose the bytes for given weights is a fitter's work (`passes/fit/`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from nomul.ir.encodings.base import Encoding
from nomul.ir.registry import modules_of

__all__ = ["Encoding", "all_encodings", "get_encoding"]


@cache
def all_encodings() -> dict[str, type[Encoding]]:
    """Every encoding class by name."""
    modules_of(__name__)
    return {kind.name: kind for kind in sorted(_named(Encoding), key=lambda kind: kind.name)}


def get_encoding(name: str, **parameters: Any) -> Encoding:
    """Raises KeyError for an unknown name, ValueError or TypeError for parameters that do not fit."""
    return all_encodings()[name](**parameters)


def _named(base: type[Encoding]) -> list[type[Encoding]]:
    below = [kind for child in base.__subclasses__() for kind in _named(child)]
    return ([base] if base.name else []) + below
