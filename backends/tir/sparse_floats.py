"""N of M floats (`backends/layouts/nm_float32.py`): units as they are read, and an f32 panel in scratch with zeros.

A vector is as many rows as it has lanes. Each column of a block is chosen among those kept weights that may be in it:
as their places ascend, the first of two of four is in column 0, 1 or 2, the second in 1, 2 or 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.layouts.nm_float32 import unit_blocks
from nomul.backends.storage import from_storage, storage_type
from nomul.backends.tir.body import buffer_at, index, let, loop, when
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector, zeros
from nomul.ir.encodings.nm import Nm
from nomul.ir.graph import Value
from nomul.ir.types import DType

Expr = Any
NEAR, FAR = 512, 16384  # bytes of values that are brought into the second-level cache before their use


def value_type(encoding: Nm) -> DType:
    return DType(encoding.value.name) if encoding.value else DType.F32


def field_types(encoding: Nm) -> list[str]:
    """TIR's element types of the packed fields."""
    return [storage_type(value_type(encoding)), "uint8"]


class SparseUnits:
    """The packed fields, read a unit of blocks and a vector of rows at a time. Make it outside of loops.

    blocks: of a unit.  kept: weights of a unit.  depth: columns."""

    def __init__(self, frame: KernelFrame, w: Value, encoding: Nm, depth: int) -> None:
        self._frame, self.encoding, self.depth = frame, encoding, depth
        self.lanes = min(frame.target.vector_bytes // 4, PANEL)
        names = zip(("values", "places"), field_types(encoding), frame.pointers[w], strict=True)
        self._values, self._places = (buffer_at(name, kind, pointer) for name, kind, pointer in names)
        self.blocks = unit_blocks(encoding.n)
        self.kept = self.blocks * encoding.n

    @contextmanager
    def each(self, panel: Expr, ahead: int = FAR) -> Iterator[tuple[Expr, Expr]]:
        """All units of a panel: (number among all units, first column). ahead: NEAR where they are used at once."""
        width = self.blocks * self.encoding.m
        units = -(-self.depth // width)
        with loop("unit", units) as unit:
            number = let("number", panel * units + unit)
            later = number * (self.kept * PANEL) + ahead // value_type(self.encoding).numpy.itemsize
            prefetch(self._values, later, self.kept * PANEL, cache=2)
            yield number, let("column", unit * width)

    def inside(self, block: int, column: Expr) -> AbstractContextManager[None]:
        """Around what is done with a block of a unit that may lie behind the last column."""
        width = self.blocks * self.encoding.m
        if not block or self.depth % width == 0:
            return nullcontext()
        return when(column + width <= self.depth)

    def values(self, unit: Expr, vector: int) -> list[Expr]:
        """f32 lanes: each kept weight. vector: the first row."""
        raws = [let("raw", self._load(self._values, unit, self.kept, slot, vector)) for slot in range(self.kept)]
        kind, target = value_type(self.encoding), self._frame.target
        return [let("value", from_storage(raw, kind, target)) for raw in raws]

    def pairs(self, unit: Expr, vector: int) -> list[Expr]:
        """int32 lanes: places of two kept weights, the first in the lower four bits."""
        kind, count = "int32" if self.lanes == 1 else f"int32x{self.lanes}", self.kept // 2
        loaded = [self._load(self._places, unit, count, pair, vector) for pair in range(count)]
        return [let("places", tirx.Cast(kind, both)) for both in loaded]

    def _load(self, buffer: Any, unit: Expr, size: int, number: int, vector: int) -> Expr:
        return load(buffer, unit * (size * PANEL) + (number * PANEL + vector), self.lanes)

    def spread(self, value: int) -> Expr:
        return spread(tirx.const(value, "int32"), self.lanes)


class SparseFloats:
    """`panel32` of 32 rows of the weights, [depth, 32] f32. Make it outside of loops."""

    def __init__(self, units: SparseUnits, scratch: Scratch) -> None:
        self._units = units
        self.region = scratch.region("float32", units.depth * PANEL)

    def fill(self, first: Expr) -> None:
        """Unpack rows [first, first + 32)."""
        units, (n, m) = self._units, (self._units.encoding.n, self._units.encoding.m)
        with units.each(let("panel", tirx.truncdiv(first, index(PANEL)))) as (unit, column):
            for vector in range(0, PANEL, units.lanes):
                values, places = units.values(unit, vector), self._places(unit, vector)
                for block in range(units.blocks):
                    with units.inside(block, column):
                        target = column * PANEL + (block * m * PANEL + vector + self.region.start)
                        slots = slice(block * n, (block + 1) * n)
                        self._fill_block(values[slots], places[slots], let("target", target))

    def _places(self, unit: Expr, vector: int) -> list[Expr]:
        """int32 lanes: the column of each kept weight in its block."""
        low, high = self._units.spread(15), self._units.spread(4)
        pairs = self._units.pairs(unit, vector)
        return [
            let("place", place)
            for both in pairs
            for place in (tirx.bitwise_and(both, low), tirx.shift_right(both, high))
        ]

    def _fill_block(self, values: list[Expr], places: list[Expr], target: Expr) -> None:
        n, m = self._units.encoding.n, self._units.encoding.m
        for column in range(m):
            chosen = zeros(self._units.lanes)
            for slot in range(max(0, column - (m - n)), min(column, n - 1) + 1):
                is_here = tirx.EQ(places[slot], self._units.spread(column))
                chosen = tirx.Select(is_here, values[slot], chosen)
            store_vector(self.region.buffer, target + column * PANEL, chosen)
