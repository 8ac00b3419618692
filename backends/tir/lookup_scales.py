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
from nomul.backends.tir.lookup_tables import GroupTotals
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector
from nomul.ir.types import DType

Expr = Any
MOST_TILES = 2  # of a run: their unpacked indices and the tables of a few rows fit the first-level cache
_AHEAD = 8192  # words: how far ahead of their use weights are prefetched that few rows stream, or
_MOST_AHEAD = 16384  # so many at most, where that makes whole groups, whose scales leave no gap in what is prefetched


def words_ahead(order: Order) -> int:
    """How far ahead of their use weights are prefetched that few rows stream."""
    group = order.group_bytes // 2
    return -(-_AHEAD // group) * group if group <= _MOST_AHEAD else _AHEAD


@dataclass(frozen=True)
class Run:
    """Tiles side by side. rows: how many.  first: number of the first tile.  tiles: how many."""

    rows: Expr
    first: Expr
    tiles: Expr


class RunScales:
    """The scales of one plane of one group, or its offsets, for all columns of a run, times `unit`, f32 in scratch."""

    def __init__(
        self, frame: KernelFrame, order: Order, dtype: DType, data: Expr, scratch: Scratch, unit: float = 1.0
    ) -> None:
        self._frame, self._order, self._dtype, self._unit = frame, order, dtype, unit
        self._stored = buffer_at("stored_scales", storage_type(dtype), data)
        self._region = scratch.region("float32", MOST_TILES * TILE)
        self._lanes = frame.target.vector_bytes // 4

    def fill(self, run: Run, offset: Expr) -> None:
        """offset: of the scales in a tile, in bytes."""
        size = self._order.scale_bytes
        with loop("scale_tile", run.tiles) as number:
            first = let("first", tirx.truncdiv((run.first + number) * self._order.tile_bytes + offset, index(size)))
            with loop("vector", TILE // self._lanes) as vector:
                raw = let("raw", load(self._stored, first + vector * self._lanes, self._lanes))
                prefetch(self._stored, first + vector * self._lanes + 2 * words_ahead(self._order) // size, 1, cache=2)
                scale = from_storage(raw, self._dtype, self._frame.target)
                if self._unit != 1.0:
                    scale = scale * spread(tirx.FloatImm("float32", self._unit), self._lanes)
                place = number * TILE + vector * self._lanes + self._region.start
                store_vector(self._region.buffer, place, scale)

    def load(self, column: Expr, lanes: int) -> Expr:
        """Those of a column of the run and of the next ones."""
        return load(self._region.buffer, column + self._region.start, lanes)


class Scaling:
    """Scaled sums of a group. dtype: of scales.  data: the packed weights.  rows: most of a tile.

    totals: of a bitplane; its sums of signs and all activations together are twice its sums of bits."""

    def __init__(self, frame: KernelFrame, order: Order, dtype: DType, data: Expr, rows: int, scratch: Scratch) -> None:
        self._order = order
        self._scales = RunScales(frame, order, dtype, data, scratch, 0.5 if order.offset else 1.0)
        self._offsets = RunScales(frame, order, dtype, data, scratch) if order.offset else None
        self.totals = GroupTotals(order, rows, scratch) if order.offset else None

    def fill(self, run: Run, start: Expr, plane: Expr | int) -> None:
        """Read those of a plane. start: offset of the group in a tile, in bytes; of plane 0 the first call."""
        order = self._order
        self._scales.fill(run, start + plane * order.record_bytes + TILE * 2 * order.words)
        if self._offsets is not None and isinstance(plane, int):
            self._offsets.fill(run, start + order.planes * order.record_bytes)

    def add(self, sums: PlaneSums, before: Expr, is_first: bool) -> Expr:
        """f32: `before`, and the sums of a plane times its scales; with the first plane come the offsets."""
        lanes = int(sums.values.ty.dtype.lanes)
        if self.totals is None or self._offsets is None:
            return fma(_floats(sums.values), self._scales.load(sums.column, lanes), before)
        total = spread(let("group_total", self.totals.load(sums.row, sums.group)), lanes)
        if is_first:
            before = let("offset", fma(_floats(total), self._offsets.load(sums.column, lanes), before))
        return fma(_floats(sums.values + total), self._scales.load(sums.column, lanes), before)


@dataclass(frozen=True)
class PlaneSums:
    """values: int32, of a column of the run and those behind, of a row and a group."""

    values: Expr
    column: Expr
    row: Expr
    group: Expr


def _floats(values: Expr) -> Expr:
    return let("value", tirx.Cast(f"float32x{values.ty.dtype.lanes}", values))
