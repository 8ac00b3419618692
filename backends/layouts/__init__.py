"""Packed orders of weight bytes that kernels read, one a file, found by themselves. A layout is the same for all
instruction-set levels of a family, so that one artifact holds each weight once.

A file here named `NAME.py` defines `pack(fields, shape) -> dict[str, np.ndarray]`: from plain fields (dense:
`{"data": array}`) to packed ones, in the order in which the kernel takes their pointers; or, for weights of several
encodings, `pack_encoded(weights)`. Integers behind the name (`conv_panel32:4`) are further arguments.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.terms import EncodedArray


def pack(
    layout: str, fields: Mapping[str, np.ndarray], shape: tuple[int, ...], encoding: Encoding | None = None
) -> dict[str, np.ndarray]:
    """Packed fields of a weight. Raises ModuleNotFoundError for an unknown layout."""
    name, *numbers = layout.split(":")
    module, arguments = importlib.import_module(f"{__name__}.{name}"), map(int, numbers)
    packed: dict[str, np.ndarray]
    if hasattr(module, "pack_encoded"):
        assert encoding is not None
        weights = EncodedArray(encoding, fields, shape, np.dtype(np.float32))
        packed = module.pack_encoded(weights, *arguments)
    else:
        packed = module.pack(fields, shape, *arguments)
    return packed
