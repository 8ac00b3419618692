"""Few rows of floats times a panel of 32 rows of N of M floats: the rows follow the weights.

For a block of columns its elements of a row are loaded into one vector; a permutation by the places of the kept weights
of as many rows of the weights as there are lanes puts an element beside each, and one multiply-add does the rest.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.mathlib import fma
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, store, when
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.sparse_floats import FAR, NEAR, SparseUnits
from nomul.backends.tir.vectors import lanes_at, load, store_vector, zeros

Expr = Any
_PERMUTES = {16: "avx512.permvar.sf.512", 8: "avx2.permps"}
_SUMS = 8  # vectors that leave room for weights on every level


def tile_rows(target: Target, m: int) -> int:
    """How many rows a tile can have; none where no instruction permutes so many elements."""
    lanes = target.vector_bytes // 4
    served = target.arch == "x86_64" and (lanes == 16 or "avx2" in target.features)
    return _SUMS // (PANEL // lanes) if served and m <= lanes else 0


class SparseRows:
    """Make it outside of loops. most: rows in all, a multiple of those of a tile."""

    def __init__(self, units: SparseUnits, scratch: Scratch, tile: int, most: int) -> None:
        self._units, self._lanes, self._full = units, units.lanes, tile
        self._stride = units.depth + units.lanes  # a block at the end is loaded with what stands behind it
        self._copies = scratch.region("float32", most * self._stride)
        self._sums = local("row_sums", "float32", tile * PANEL)

    def prepare(self, rows: Rows, count: Expr) -> None:
        """Copy rows to where elements behind them may be read."""
        with loop("row", count) as row, loop("place", self._units.depth) as place:
            element = rows.buffer[rows.start + row * rows.stride + place]
            store(self._copies.buffer, self._copies.start + row * self._stride + place, element)

    def emit(self, panel: Expr, count: Expr, sums: Any) -> None:
        """All rows times a panel, into sums [count, 32]; after the first tile the panel comes from the cache."""
        chunks = let("chunks", tirx.truncdiv(count, index(self._full)))
        with loop("chunk", chunks) as chunk:
            self._tile(self._full, panel, let("row", chunk * self._full), sums)
        done = let("done", chunks * self._full)
        left, below = let("left", count - done), 0
        for height in (height for height in (1, 2, 4) if height <= self._full):
            with when(tirx.all(left > below, left <= height)):
                self._tile(height, panel, done, sums)
            below = height

    def _tile(self, height: int, panel: Expr, row: Expr, sums: Any) -> None:
        """Rows behind the last one are what was there before."""
        start = let("copies", self._copies.start + row * self._stride)
        for place in range(0, height * PANEL, self._lanes):
            store_vector(self._sums, place, zeros(self._lanes))
        with self._units.each(panel, NEAR if height == 1 else FAR) as (unit, column):
            for vector in range(0, PANEL, self._lanes):
                packed = self._units.values(unit, vector), self._units.pairs(unit, vector)
                for block in range(self._units.blocks):
                    with self._units.inside(block, column):
                        self._add_block(height, packed, block, start + column, vector)
        for place in range(0, height * PANEL, self._lanes):
            store_vector(sums, row * PANEL + place, self._sum(place))

    def _add_block(
        self, height: int, packed: tuple[list[Expr], list[Expr]], block: int, first: Expr, vector: int
    ) -> None:
        """packed: values and places of all blocks of a unit, whose first element of the first row is at `first`."""
        (values, pairs), encoding = packed, self._units.encoding
        for row in range(height):
            start = first + (row * self._stride + block * encoding.m)
            elements = let("elements", load(self._copies.buffer, start, self._lanes))
            for slot in range(block * encoding.n, (block + 1) * encoding.n):
                shifted = tirx.shift_right(pairs[slot // 2], self._units.spread(4)) if slot % 2 else pairs[slot // 2]
                place = row * PANEL + vector
                total = fma(self._permuted(elements, shifted), values[slot], self._sum(place))
                store_vector(self._sums, place, total)

    def _permuted(self, elements: Expr, places: Expr) -> Expr:
        """Upper bits of places do not count, but those that name a lane: 3 or 4."""
        kind = f"llvm.x86.{_PERMUTES[self._lanes]}"
        return let("beside", tirx.call_llvm_pure_intrin(f"float32x{self._lanes}", kind, elements, places))

    def _sum(self, place: int) -> Expr:
        return tirx.BufferLoad(self._sums, [lanes_at(place, self._lanes)])
