"""N of M floats in panels of 32 rows: what a unit of one or two blocks of m columns keeps, a vector of rows each.

Fields: values [panels, units, kept of a unit, 32] as they are stored; places u8 [panels, units, half of that, 32]: in
the low half the column in its block of one kept weight, in the high half that of the next. A unit is two blocks where n
is odd. Rows behind the last one and a block behind the last column are zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nomul.backends.layouts.panel32 import PANEL
from nomul.ir.encodings.terms import EncodedArray


def pack_encoded(weights: EncodedArray) -> dict[str, np.ndarray]:
    """The packed fields of weights whose kept ones are floats."""
    encoding: Any = weights.encoding
    size = unit_blocks(encoding.n) * encoding.n
    fields: Mapping[str, np.ndarray] = weights.fields
    kept = encoding.parts(fields, weights.shape)["kept"]
    pairs = _by_unit(kept, size).reshape(-1, _units(kept, size), size // 2, 2, PANEL)
    return {
        "values": _by_unit(fields["values"], size),
        "places": np.ascontiguousarray(pairs[:, :, :, 0] | pairs[:, :, :, 1] << np.uint8(4)),
    }


def unit_blocks(n: int) -> int:
    return 1 + n % 2


def _units(matrix: np.ndarray, size: int) -> int:
    return -(-matrix.shape[1] // size)


def _by_unit(matrix: np.ndarray, size: int) -> np.ndarray:
    """[panels, units, size, 32] of [N, kept]."""
    rows, kept = matrix.shape
    panels, units = -(-rows // PANEL), _units(matrix, size)
    padded = np.zeros((panels * PANEL, units * size), matrix.dtype)
    padded[:rows, :kept] = matrix
    return np.ascontiguousarray(padded.reshape(panels, PANEL, units, size).transpose(0, 2, 3, 1))
