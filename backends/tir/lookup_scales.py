"""Scales of look-ups' weights, and what makes f32 of integer sums: of trits, and of bit-planes with their offsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.expressions import fma
from nomul.backends.frame import KernelFrame
from nomul.backends.layouts.lut32 import TILE, Order
from nomul.backends.storage import from_storage, storage_type
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.lookup_indices import words_ahead
from nomul.backends.tir.lookup_tables import GroupTotals
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector
from nomul.ir.types import DType

Expr = Any
MOST_TILES = 2  # of a run: their unpacked indices and the tables of a few rows fit the first-level cache


@dataclass(frozen=True)
class Run:
    """Tiles of one strip side by side. rows: how many.  tiles: how many.  start: offset of the first tile's first group
    (bytes).  stride: from each group to the next one (bytes).  sums: where those of the first tile are in scratch."""

    rows: Expr
    tiles: Expr
    start: Expr
    stride: Expr
    sums: Expr


def run_of(order: Order, rows: Expr, first: Expr, tiles: Expr) -> Run:
    """The run of so many tiles from number `first` on."""
    strip = let("strip", tirx.truncdiv(first, index(order.strip)) * order.strip)
    width = tirx.min(index(order.strip), order.tiles - strip)
    start = let("run_start", strip * order.tile_bytes + (first - strip) * order.group_bytes)
    return Run(rows, tiles, start, let("group_stride", width * order.group_bytes), index(0))


class RunScales:
    """The scales of one plane of one group, or its offsets, for all columns of a run, times `unit`, f32.

    Few rows read them where they are stored, before the words: so all reads of memory are in order, which is what the
    machine's own prefetching follows. For more rows they are in scratch."""

    def __init__(
        self, frame: KernelFrame, order: Order, dtype: DType, data: Expr, scratch: Scratch, unit: float = 1.0
    ) -> None:
        self._frame, self._order, self._dtype, self._unit = frame, order, dtype, unit
        self._stored = buffer_at("stored_scales", storage_type(dtype), data)
        self._region = scratch.region("float32", MOST_TILES * TILE)
        self._lanes = frame.target.vector_bytes // 4

    def fill(self, run: Run, offset: Expr) -> None:
        """Bring those of a run to scratch. offset: of the first tile's scales (bytes)."""
        with loop("scale_tile", run.tiles) as number:
            first = let("first", number * self._order.group_bytes + offset)
            with loop("vector", TILE // self._lanes) as vector:
                column = let("column", vector * self._lanes)
                place = number * TILE + column + self._region.start
                store_vector(self._region.buffer, place, self._read(first, column, self._lanes))

    def load(self, column: Expr, lanes: int, stored: Expr | None) -> Expr:
        """Those of a column of the run and of the next ones. stored: offset of the tile's scales (bytes), or None: read
        them from scratch."""
        if stored is None:
            return load(self._region.buffer, column + self._region.start, lanes)
        words, inside = words_ahead(self._order), tirx.bitwise_and(column, index(TILE - 1))
        if words is not None:
            place = tirx.truncdiv(stored + 2 * words, index(self._order.scale_bytes)) + inside
            prefetch(self._stored, place, 1, cache=2)
        return self._read(stored, inside, lanes)

    def _read(self, start: Expr, column: Expr, lanes: int) -> Expr:
        first = tirx.truncdiv(start, index(self._order.scale_bytes))
        scale = from_storage(let("raw", load(self._stored, first + column, lanes)), self._dtype, self._frame.target)
        return scale if self._unit == 1.0 else scale * spread(tirx.FloatImm("float32", self._unit), lanes)


class Scaling:
    """Scaled sums of a group. dtype: of scales.  data: the packed weights.  rows: most of a tile.

    totals: of a bitplane; its sums of signs and all activations together are twice its sums of bits."""

    def __init__(self, frame: KernelFrame, order: Order, dtype: DType, data: Expr, rows: int, scratch: Scratch) -> None:
        self._order = order
        self._scales = RunScales(frame, order, dtype, data, scratch, 0.5 if order.offset else 1.0)
        self._offsets = RunScales(frame, order, dtype, data, scratch) if order.offset else None
        self.totals = GroupTotals(order, rows, scratch) if order.offset else None

    def fill(self, run: Run, plane: Plane) -> None:
        """Bring those of a plane to scratch; of plane 0 the first call."""
        self._scales.fill(run, plane.record(self._order))
        if self._offsets is not None and plane.is_first:
            self._offsets.fill(run, plane.start)

    def add(self, sums: PlaneSums, before: Expr, plane: Plane, in_place: bool) -> Expr:
        """f32: `before`, and the sums of a plane times its scales; with the first plane come the offsets.

        in_place: read scales where they are stored, else what `fill` has brought."""
        lanes = int(sums.values.ty.dtype.lanes)
        behind = tirx.truncdiv(sums.column, index(TILE)) * self._order.group_bytes
        stored = plane.record(self._order) + behind if in_place else None
        scale = let("scale", self._scales.load(sums.column, lanes, stored))
        if self.totals is None or self._offsets is None:
            return fma(_floats(sums.values), scale, before)
        total = spread(let("group_total", self.totals.load(sums.row, sums.group)), lanes)
        if plane.is_first:
            start = plane.start + behind if in_place else None
            before = let("offset", fma(_floats(total), self._offsets.load(sums.column, lanes, start), before))
        return fma(_floats(sums.values + total), scale, before)


@dataclass(frozen=True)
class Plane:
    """Of a group. start: offset of the group in the run's first tile (bytes).  number: 0 or an expression."""

    start: Expr
    number: Expr | int

    @property
    def is_first(self) -> bool:
        return isinstance(self.number, int)

    def record(self, order: Order) -> Expr:
        """Where its scales begin, and then its words (bytes)."""
        return self.start + self.number * order.record_bytes + order.offset_bytes


@dataclass(frozen=True)
class PlaneSums:
    """values: int32, of a column of the run and those behind, of a row and a group."""

    values: Expr
    column: Expr
    row: Expr
    group: Expr


def _floats(values: Expr) -> Expr:
    return let("value", tirx.Cast(f"float32x{values.ty.dtype.lanes}", values))
