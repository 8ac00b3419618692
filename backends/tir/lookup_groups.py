"""PlaneSums of look-ups by group: as floats times the scales of their columns, added up in scratch.

Where 16-bit sums of a whole group could overflow, it is taken in chunks, whose sums are added as 32-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.layouts.lut32 import INDICES, TILE, WORDS, Order, entries
from nomul.backends.tir.body import either, index, let, loop
from nomul.backends.tir.lookup import FEW, HEIGHT, LookupTile, Sink
from nomul.backends.tir.lookup_bytes import ByteTile
from nomul.backends.tir.lookup_indices import Chunk
from nomul.backends.tir.lookup_scales import MOST_TILES, Plane, PlaneSums, Run, Scaling
from nomul.backends.tir.scratch import Region, Scratch
from nomul.backends.tir.vectors import load, spread, store_vector

Expr = Any
_WORD_LIMIT = 2**15 - 1
_PANEL = 48 * 1024  # bytes of unpacked indices: with the tables of a few rows they fit the second-level cache with ease
_Store = Callable[[Expr, PlaneSums], None]  # (place among the sums of a run, sums)
_Multiply = Callable[[Chunk, _Store], None]


class GroupSums:
    """Make it outside of loops. rows: most of a tile.  levels: largest magnitude of q.

    The f32 sums are the first region of scratch: [tiles, rows of the run, 128]."""

    def __init__(self, frame: KernelFrame, order: Order, rows: int, levels: int, scratch: Scratch) -> None:
        self._order = order
        self._lanes = frame.target.vector_bytes // 4
        limit = _WORD_LIMIT // (levels * int(abs(entries(order.columns)).sum(axis=1).max()))
        self._units = limit // INDICES  # of a chunk
        is_whole = order.indices <= limit
        self._most = (order.units, order.tail) if is_whole else (self._units, 0)
        size = (self._most[0] * INDICES + self._most[1]) * TILE * 2
        self.tiles = max(1, min(MOST_TILES, order.strip, _PANEL // size))
        size = max(self.tiles * rows, order.strip * min(rows, FEW)) * TILE
        self._sums = scratch.region("float32", size)
        self._wide = None if is_whole else scratch.region("int32", size)

    def use(self, few: LookupTile, many: LookupTile | ByteTile | None, scaling: Scaling, scratch: Scratch) -> None:
        """few: for up to `FEW` rows, or for any number.  many: for more."""
        self._few, self._many, self._scaling = few, many, scaling
        if many is not None:
            self._stride = many.panel_size(*self._most)
            self._panel = scratch.region(many.dtype, self.tiles * self._stride)

    @staticmethod
    def first(run: Run, tile: Expr) -> Expr:
        """Where the sums of a tile of the run begin."""
        return run.sums + tile * (run.rows * TILE)

    def add(self, run: Run) -> None:
        """All groups."""
        self._fill(run, self._sums, "float32")
        if self._many is None:
            self._in_order(run)
            return
        with either(run.rows <= FEW) as (few, many):
            with few:
                self._in_order(run)
            with many, loop("group", self._order.groups) as group:
                self._planes(run, group, self._many)

    def _in_order(self, run: Run) -> None:
        """For few rows: all records as they stand in memory."""
        with loop("group", self._order.groups) as group, loop("tile", run.tiles) as tile:
            first = let("tile_start", run.start + tile * self._order.group_bytes)
            one = Run(run.rows, index(1), first, run.stride, let("tile_sums", self.first(run, tile)))
            self._planes(one, group, None)

    def _planes(self, run: Run, group: Expr, many: LookupTile | ByteTile | None) -> None:
        """many: what multiplies, of many rows."""
        start = let("group_start", run.start + group * run.stride)
        self._plane(run, group, Plane(start, 0), many)
        if self._order.planes > 1:
            with loop("plane", self._order.planes - 1, 1) as number:
                self._plane(run, group, Plane(start, number), many)

    def _plane(self, run: Run, group: Expr, plane: Plane, many: LookupTile | ByteTile | None) -> None:
        order = self._order
        words = let("words", tirx.shift_right(plane.record(order) + TILE * order.scale_bytes, index(1)))
        ahead = let("ahead", tirx.shift_right(run.stride, index(1)))
        whole = Chunk(words, group, index(0), order.units, order.tail, ahead)
        if many is not None:
            self._scaling.fill(run, plane)

        def scaled(place: Expr, sums: PlaneSums) -> None:
            total = load(self._sums.buffer, place, int(sums.values.ty.dtype.lanes))
            store_vector(self._sums.buffer, place, self._scaling.add(sums, total, plane, many is None))

        def multiply(chunk: Chunk, sink: _Store) -> None:
            if many is None:
                self._stream(run, chunk, sink)
            else:
                self._multiply(run, chunk, sink, many)

        if self._wide is None:
            multiply(whole, scaled)
        else:
            self._in_chunks(run, whole, self._wide, multiply, scaled)

    def _in_chunks(self, run: Run, whole: Chunk, wide: Region, multiply: _Multiply, scaled: _Store) -> None:
        """Sums of 32 bits, then scaled."""

        def added(place: Expr, sums: PlaneSums) -> None:
            place = let("wide_place", place + wide.start)
            before = load(wide.buffer, place, int(sums.values.ty.dtype.lanes))
            store_vector(wide.buffer, place, before + sums.values)

        self._fill(run, wide, "int32")
        chunks, units = self._order.units // self._units, self._order.units % self._units
        with loop("chunk", chunks) as number:
            multiply(self._part(whole, number * self._units, self._units, 0), added)
        if units or self._order.tail:
            multiply(self._part(whole, chunks * self._units, units, whole.tail), added)
        with self._vectors(run) as (place, column, row):
            values = let("sums", load(wide.buffer, place + wide.start, self._lanes))
            scaled(place, PlaneSums(values, column, row, whole.group))

    @staticmethod
    def _part(whole: Chunk, unit: Expr | int, units: int, tail: int) -> Chunk:
        words = let("words", whole.words + unit * (WORDS * TILE))
        return Chunk(words, whole.group, let("first_unit", index(unit)), units, tail, whole.ahead)

    def _stream(self, run: Run, chunk: Chunk, sink: _Store) -> None:
        with loop("row", run.rows) as row:
            self._few.stream(row, index(0), chunk, self._into(run, index(0), chunk.group, sink))

    def _multiply(self, run: Run, chunk: Chunk, sink: _Store, form: LookupTile | ByteTile) -> None:
        buffer = self._panel.buffer

        def panel(tile: Expr) -> Expr:
            return let("panel", tile * self._stride + self._panel.start)

        with loop("tile", run.tiles) as tile:
            form.unpack(tile, chunk, buffer, panel(tile))
        done: Expr = index(0)
        for height in (HEIGHT, 1):
            steps = let("steps", tirx.truncdiv(run.rows - done, index(height)))
            with loop("rows", steps) as step, loop("tile", run.tiles) as tile:
                row = let("row", done + step * height)
                form.multiply(height, row, buffer, panel(tile), chunk, self._into(run, tile, chunk.group, sink))
            done = let("done", done + steps * height)

    def _into(self, run: Run, tile: Expr, group: Expr, sink: _Store) -> Sink:
        def take(row: Expr, column: Expr, sums: Expr) -> None:
            place = let("place", self.first(run, tile) + row * TILE + column)
            sink(place, PlaneSums(sums, let("run_column", tile * TILE + column), row, group))

        return take

    def _fill(self, run: Run, region: Region, dtype: str) -> None:
        """Zeros in all that the run uses."""
        with self._vectors(run) as (place, _, _):
            store_vector(region.buffer, place + region.start, spread(tirx.const(0, dtype), self._lanes))

    @contextmanager
    def _vectors(self, run: Run) -> Iterator[tuple[Expr, Expr, Expr]]:
        """For each vector of sums: (its place, its first column in the run, its row)."""
        vectors = TILE // self._lanes
        with loop("tile", run.tiles) as tile, loop("row", run.rows) as row, loop("vector", vectors) as vector:
            column = let("column", vector * self._lanes)
            yield let("place", self.first(run, tile) + row * TILE + column), tile * TILE + column, row
