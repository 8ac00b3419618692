"""Packed orders of weight bytes that kernels read, one a file, found by themselves. A layout is the same for all
instruction-set levels of a family, so that one artifact holds each weight once.

A file here named `NAME.py` defines `pack(fields, shape) -> dict[str, np.ndarray]`: from the encoding's plain fields
(dense: `{"data": array}`) to packed ones, in the order in which the kernel takes their pointers. Integers behind the
name (`conv_panel32:4`) are further arguments of `pack`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import numpy as np


def pack(layout: str, fields: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Packed fields of a weight. Raises ModuleNotFoundError for an unknown layout."""
    name, *arguments = layout.split(":")
    packed: dict[str, np.ndarray] = importlib.import_module(f"{__name__}.{name}").pack(
        fields, shape, *map(int, arguments)
    )
    return packed
