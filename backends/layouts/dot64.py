"""Weights of a few bits in panels of 64 rows for dot products of bytes (`backends/dot_codes/shape.py` draws them).

Fields: codes u8; scale [panels, groups, scales, 64] as stored; with zero points zero u8 [panels, groups, 64]; with
tables table u8 [tables, 16 or 32]. Rows behind the last one are zeros, also in their scales."""

from __future__ import annotations

import numpy as np

from nomul.backends.dot_codes import Arrays, arrays_of, codes_of
from nomul.backends.dot_codes.shape import BLOCK, PANEL, RUN, DotShape
from nomul.ir.encodings.low_bit import matrix_size
from nomul.ir.encodings.terms import EncodedArray


def pack_encoded(weights: EncodedArray, taps: int = 1) -> dict[str, np.ndarray]:
    """The packed fields of a weight whose encoding has a form of numbers.

    taps: of a convolution, whose columns [I, taps] become [taps, I]; a row then has one group."""
    codes, arrays = codes_of(weights.encoding), arrays_of(weights)
    assert not isinstance(codes, str)
    shape = DotShape(codes, *matrix_size(weights.shape), arrays.scales.shape[-1])
    assert taps == 1 or shape.groups == 1
    columns = arrays.numbers.reshape(*arrays.numbers.shape[:-1], -1, taps)
    numbers = columns.swapaxes(-1, -2).reshape(arrays.numbers.shape)
    return fields_of(shape, numbers, arrays)


def fields_of(shape: DotShape, numbers: np.ndarray, arrays: Arrays) -> dict[str, np.ndarray]:
    """The packed fields. numbers: u8 [terms, parts, N, K], in place of those of `arrays`."""
    codes = by_units(shape, numbers)
    if arrays.palettes is not None:
        codes = np.concatenate([_palettes(shape, arrays.palettes), codes], axis=-1)
    packed = {"codes": codes, "scale": _by_panel(shape, arrays.scales)}
    if arrays.zeros is not None:
        packed["zero"] = _by_panel(shape, arrays.zeros[None])
    return packed if arrays.tables is None else packed | {"table": arrays.tables}


def _palettes(shape: DotShape, palettes: np.ndarray) -> np.ndarray:
    """u8 [panels, groups, 1, bytes] of palettes [fields, N, G, 4]."""
    words = _by_panel(shape, np.ascontiguousarray(palettes).view(np.uint32)[..., 0])
    return words.view(np.uint8).reshape(shape.panels, shape.groups, 1, -1)


def by_units(shape: DotShape, numbers: np.ndarray) -> np.ndarray:
    """u8 [panels, groups, terms, bytes] of numbers u8 [terms, parts, N, K]."""
    terms, parts, rows, _ = numbers.shape
    grouped = numbers.reshape(terms, parts, rows, shape.groups, shape.size)
    missing = [(0, 0), (0, 0), (0, shape.panels * PANEL - rows), (0, 0), (0, shape.padded - shape.size)]
    padded = np.pad(grouped, missing) if any(behind for _, behind in missing) else grouped
    units = padded.reshape(terms, parts, shape.panels, PANEL, shape.groups, shape.units, shape.unit)
    packed = [_part(units[:, part], widths) for part, widths in enumerate(shape.codes.parts)]
    return np.ascontiguousarray(np.concatenate(packed, axis=-1))


def _part(numbers: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """u8 [panels, groups, terms, bytes] of numbers [terms, panels, 64, groups, units, unit]."""
    *lead, unit = numbers.shape
    fields, below = [], 0
    for width in widths:
        planes = 8 // width
        field = numbers >> np.uint8(below) & np.uint8(2**width - 1)
        split = field.reshape(*lead, unit // (planes * RUN), planes, RUN)
        packed = split[..., 0, :].copy()
        for plane in range(1, planes):
            packed |= split[..., plane, :] << np.uint8(plane * width)
        fields.append(packed)
        below += width
    joined = np.concatenate(fields, axis=-2) if len(fields) > 1 else fields[0]
    terms, panels, _, groups, units, vectors, _ = joined.shape
    blocks = joined.reshape(terms, panels, PANEL // BLOCK, BLOCK, groups, units, vectors, RUN)
    return blocks.transpose(1, 4, 0, 5, 6, 2, 3, 7).reshape(panels, groups, terms, -1)


def _by_panel(shape: DotShape, values: np.ndarray) -> np.ndarray:
    """[panels, groups, n, 64] of [n, N, G]."""
    padded = np.zeros((len(values), shape.panels * PANEL, shape.groups), values.dtype)
    padded[:, : shape.rows] = values
    return np.ascontiguousarray(padded.reshape(len(values), shape.panels, PANEL, shape.groups).transpose(1, 3, 0, 2))
