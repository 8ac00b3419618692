"""What dot products of bytes are estimated to cost (`backends/cost.py`); factors measured on Zen 4."""

from __future__ import annotations

from math import ceil

from nomul.backends.cost import with_memory
from nomul.backends.dot_codes.shape import BLOCK, PANEL, DotShape
from nomul.backends.target import Target
from nomul.backends.tir.dot import is_fused

_FEW, _SHARE = 8, 192  # rows that unpack in registers; that share an unpacked panel
_VECTOR = 64  # weights
_DOT, _PAIRS, _WIDE_PAIRS = 1.15, 2.6, 3.6  # a dot product; three instructions instead; with signs apart
_IN_REGISTERS, _TO_PANEL = 0.5, 4.0  # unpacking a vector
_LOOK_UP = 1.0
_OVERLAP = 3.0  # of arithmetic and memory
_FINISH = 2.5  # scaling a vector of sums at a group's end


def cycles(shape: DotShape, target: Target, rows: int) -> float:
    """Of one call."""
    codes, columns = shape.codes, shape.panels * PANEL
    vectors = columns * shape.padded * shape.groups * codes.terms * len(codes.summands) / _VECTOR
    dot = _DOT if is_fused(target) else _WIDE_PAIRS if codes.is_wide else _PAIRS
    unpacking = _IN_REGISTERS if rows <= _FEW else _TO_PANEL * ceil(rows / _SHARE)
    unpacking += _LOOK_UP * (codes.tables > 0 or shape.palettes)
    finish = rows * shape.groups * codes.terms * columns / BLOCK * _FINISH
    arithmetic = vectors * (rows * dot + unpacking) + finish
    return with_memory(arithmetic, 4 * shape.panels * shape.panel_stride, _OVERLAP)
