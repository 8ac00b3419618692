"""N of M weights in panels of 64 rows for dot products of bytes (`backends/dot_codes/sparse.py` draws them).

Fields: those of `dot64.py` for the kept weights; and places u8 [panels, groups, bytes], in their blocks."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomul.backends.dot_codes import arrays_of, codes_of
from nomul.backends.dot_codes.shape import RUN
from nomul.backends.dot_codes.sparse import SparseShape
from nomul.backends.layouts import dot64
from nomul.ir.encodings.low_bit import matrix_size
from nomul.ir.encodings.terms import EncodedArray


def pack_encoded(weights: EncodedArray) -> dict[str, np.ndarray]:
    """The packed fields of a weight whose kept weights have a form of numbers."""
    encoding: Any = weights.encoding
    codes = codes_of(encoding.value)
    assert not isinstance(codes, str)
    compact = encoding.compact_shape(weights.shape)
    arrays = arrays_of(EncodedArray(encoding.value, weights.fields, compact, weights.dtype))
    groups = arrays.scales.shape[-1]
    shape = SparseShape(codes, *matrix_size(weights.shape), groups, encoding.n, encoding.m)
    places = encoding.parts(weights.fields, weights.shape)["kept"]
    fields = dot64.fields_of(shape.kept, _by_window(shape, arrays.numbers), arrays)
    return fields | {"places": dot64.by_units(shape.places, _by_window(shape, places[None, None]))}


def _by_window(shape: SparseShape, numbers: np.ndarray) -> np.ndarray:
    """[.., groups * windows * dwords * 4] of numbers [.., kept]: zeros in empty places."""
    lead = numbers.shape[:-1]
    by_group = numbers.reshape(*lead, shape.groups, -1)
    in_window = shape.blocks * shape.n
    missing = shape.windows * in_window - by_group.shape[-1]
    windows = _padded(by_group, missing).reshape(*lead, shape.groups, shape.windows, in_window)
    return _padded(windows, shape.dwords * RUN - in_window).reshape(*lead, -1)


def _padded(array: np.ndarray, missing: int) -> np.ndarray:
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)]) if missing else array
