"""What look-ups are estimated to cost (`backends/cost.py`); counts of `docs/kernels.md`, factors measured on Zen 4."""

from __future__ import annotations

from math import ceil
from typing import Any

from nomul.backends.cost import with_memory
from nomul.backends.group import Group
from nomul.backends.layouts import lut32
from nomul.backends.layouts.lut32 import INDICES, ROWS, TILE, Order
from nomul.backends.target import Target
from nomul.backends.tir.lookup import FEW
from nomul.backends.tir.lookup_bytes import LANES, fits, steps_of
from nomul.backends.tir.lookup_word import has_word_tables

_STREAMED, _READ = 1.85, 0.8  # a look-up of words for a row; reading its indices once
_SHARED, _UNPACKED = 1.45, 3.0  # of indices that were unpacked; unpacking them once
_ROWS = 64  # that share unpacked indices
_BYTES, _BYTES_UNPACKED = 1.75, 11.0  # the same of bytes
_TWO_PORTS = 1.0  # more for a look-up of words on cores without VBMI, all Intel's, where vpermw is two operations
_SHUFFLES = 10.0  # a look-up of words in tables of bytes
_TABLE = 4.0  # making one
_OVERLAP = 1.7  # of arithmetic and memory
_FINISH = 2.5  # scaling a vector of sums at a group's end


def cycles(group: Group, target: Target, rows: int) -> float:
    """Of one call."""
    assert group.anchor is not None
    w = group.anchor.args[2]
    assert w is not None and w.type.encoding is not None
    order = lut32.order_of(w.type.encoding, tuple(int(size) for size in w.shape))
    columns, parts = order.tiles * TILE, order.groups * order.planes
    tables = rows * order.groups * order.indices * _TABLE
    finish = rows * parts * columns / LANES * _FINISH
    lookups = parts * _group(order, target, rows, group.anchor.attrs)
    return with_memory(lookups * columns / TILE + finish + tables, order.tiles * order.tile_bytes, _OVERLAP)


def _group(order: Order, target: Target, rows: int, attrs: Any) -> float:
    """Of one plane of one group of a tile."""
    words = order.indices * TILE / ROWS
    if not has_word_tables(target):
        return rows * words * _SHUFFLES
    more = 0.0 if "avx512vbmi" in target.features else _TWO_PORTS
    if rows <= FEW:
        return words * (rows * (_STREAMED + more) + _READ)
    if not fits(target, order, attrs["levels"]):
        return words * (rows * (_SHARED + more) + ceil(rows / _ROWS) * _UNPACKED)
    steps = (order.units * len(steps_of(INDICES)) + len(steps_of(order.tail))) * TILE / LANES
    return steps * (rows * _BYTES + ceil(rows / _ROWS) * _BYTES_UNPACKED)
