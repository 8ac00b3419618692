"""Sums of look-ups by group: as floats times the scales of their columns, added up in scratch.

Where 16-bit sums of a whole group could overflow, it is taken in chunks, whose sums are added as 32-bit integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from nomul.backends.expressions import fma
from nomul.backends.frame import KernelFrame
from nomul.backends.layouts.lut32 import INDICES, TILE, WORDS, Order, entries
from nomul.backends.storage import from_storage, storage_type
from nomul.backends.tir.body import buffer_at, either, index, let, loop
from nomul.backends.tir.lookup import HEIGHT, LookupTile, Sink
from nomul.backends.tir.lookup_bytes import ByteTile
from nomul.backends.tir.lookup_indices import Chunk
from nomul.backends.tir.scratch import Region, Scratch
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector
from nomul.ir.types import DType

Expr = Any
_AHEAD = 1408  # words: about how far ahead of their use weights are prefetched that few rows stream
_WORD_LIMIT = 2**15 - 1
_PANEL = 48 * 1024  # bytes of unpacked indices: with the tables of a few rows they fit the second-level cache with ease
_MOST_TILES = 4
_Store = Callable[[Expr, Expr, Expr], None]  # (place among the sums of a run, column of the run, int32 sums)


@dataclass(frozen=True)
class Run:
    """Tiles side by side. rows: how many.  first: number of the first tile.  tiles: how many."""

    rows: Expr
    first: Expr
    tiles: Expr


class RunScales:
    """The scales of one plane of one group for all columns of a run, f32 in scratch."""

    def __init__(self, frame: KernelFrame, order: Order, dtype: DType, data: Expr, scratch: Scratch) -> None:
        self._frame, self._order, self._dtype = frame, order, dtype
        self._stored = buffer_at("stored_scales", storage_type(dtype), data)
        self._region = scratch.region("float32", _MOST_TILES * TILE)
        self._lanes = frame.target.vector_bytes // 4

    def fill(self, run: Run, offset: Expr) -> None:
        """offset: of the scales in a tile, in bytes."""
        size = self._order.scale_bytes
        with loop("scale_tile", run.tiles) as number:
            first = let("first", tirx.truncdiv((run.first + number) * self._order.tile_bytes + offset, index(size)))
            with loop("vector", TILE // self._lanes) as vector:
                raw = let("raw", load(self._stored, first + vector * self._lanes, self._lanes))
                prefetch(self._stored, first + vector * self._lanes + self._order.group_bytes // size, 1, cache=2)
                scale = from_storage(raw, self._dtype, self._frame.target)
                place = number * TILE + vector * self._lanes + self._region.start
                store_vector(self._region.buffer, place, scale)

    def load(self, column: Expr, lanes: int) -> Expr:
        """Those of a column of the run and of the next ones."""
        return load(self._region.buffer, column + self._region.start, lanes)


class GroupSums:
    """Make it outside of loops. rows: most of a tile.  levels: largest magnitude of q.

    The f32 sums are the first region of scratch: [tiles, rows, 128]."""

    def __init__(self, frame: KernelFrame, order: Order, rows: int, levels: int, scratch: Scratch) -> None:
        self._order, self._rows = order, rows
        self._lanes = frame.target.vector_bytes // 4
        group_words = order.group_bytes // 2  # whole groups ahead: so scales leave no gap in what is prefetched
        self._ahead = -(-_AHEAD // group_words) * group_words if group_words <= _AHEAD else _AHEAD
        limit = _WORD_LIMIT // (levels * int(abs(entries(order.columns)).sum(axis=1).max()))
        self._units = limit // INDICES  # of a chunk
        is_whole = order.indices <= limit
        self._most = (order.units, order.tail) if is_whole else (self._units, 0)
        size = (self._most[0] * INDICES + self._most[1]) * TILE * 2
        self.tiles = max(1, min(_MOST_TILES, _PANEL // size))
        self._sums = scratch.region("float32", self.tiles * rows * TILE)
        self._wide = None if is_whole else scratch.region("int32", self.tiles * rows * TILE)

    def use(self, few: LookupTile, many: LookupTile | ByteTile | None, scratch: Scratch) -> None:
        """few: for less than `HEIGHT` rows, or for any number.  many: for more."""
        self._few, self._many = few, many
        if many is not None:
            self._stride = many.panel_size(*self._most)
            self._panel = scratch.region(many.dtype, self.tiles * self._stride)

    def first(self, tile: Expr) -> Expr:
        """Where the sums of a tile begin."""
        return tile * (self._rows * TILE)

    def clear(self, run: Run) -> None:
        self._fill(run, self._sums, "float32")

    def add(self, run: Run, group: Expr, scales: RunScales) -> None:
        """All planes of one group."""
        order = self._order
        start = let("group_start", group * order.group_bytes)
        for plane in range(order.planes):
            offset = let("record", start + plane * order.record_bytes)
            scales.fill(run, offset + TILE * 2 * order.words)
            words = let("words", tirx.shift_right(offset, index(1)))
            chunk = Chunk(words, group, index(0), order.units, order.tail, order.group_bytes // 2)
            self._plane(run, chunk, scales)

    def _plane(self, run: Run, whole: Chunk, scales: RunScales) -> None:
        def scaled(place: Expr, column: Expr, sums: Expr) -> None:
            lanes = int(sums.ty.dtype.lanes)
            value = let("value", tirx.Cast(f"float32x{lanes}", sums))
            total = load(self._sums.buffer, place, lanes)
            store_vector(self._sums.buffer, place, fma(value, scales.load(column, lanes), total))

        if self._wide is None:
            self._chunk(run, whole, scaled)
            return
        wide = self._wide

        def added(place: Expr, column: Expr, sums: Expr) -> None:
            place = let("wide_place", place + wide.start)
            store_vector(wide.buffer, place, load(wide.buffer, place, int(sums.ty.dtype.lanes)) + sums)

        self._fill(run, wide, "int32")
        chunks, units = self._order.units // self._units, self._order.units % self._units
        with loop("chunk", chunks) as number:
            self._chunk(run, self._part(whole, number * self._units, self._units, 0), added)
        if units or self._order.tail:
            self._chunk(run, self._part(whole, chunks * self._units, units, whole.tail), added)
        with self._vectors(run) as (place, column, _):
            scaled(place, column, let("sums", load(wide.buffer, place + wide.start, self._lanes)))

    @staticmethod
    def _part(whole: Chunk, unit: Expr | int, units: int, tail: int) -> Chunk:
        words = let("words", whole.words + unit * (WORDS * TILE))
        return Chunk(words, whole.group, let("first_unit", index(unit)), units, tail, units * WORDS * TILE)

    def _chunk(self, run: Run, chunk: Chunk, sink: _Store) -> None:
        if self._many is None:
            self._stream(run, replace(chunk, ahead=self._ahead), sink)
            return
        with either(run.rows < HEIGHT) as (few, many):
            with few:
                self._stream(run, replace(chunk, ahead=self._ahead), sink)
            with many:
                self._multiply(run, chunk, sink, self._many)

    def _stream(self, run: Run, chunk: Chunk, sink: _Store) -> None:
        with loop("tile", run.tiles) as tile, loop("row", run.rows) as row:
            self._few.stream(row, run.first + tile, chunk, self._into(tile, sink))

    def _multiply(self, run: Run, chunk: Chunk, sink: _Store, form: LookupTile | ByteTile) -> None:
        buffer = self._panel.buffer

        def panel(tile: Expr) -> Expr:
            return let("panel", tile * self._stride + self._panel.start)

        with loop("tile", run.tiles) as tile:
            form.unpack(run.first + tile, chunk, buffer, panel(tile))
        done: Expr = index(0)
        for height in (HEIGHT, 1):
            steps = let("steps", tirx.truncdiv(run.rows - done, index(height)))
            with loop("rows", steps) as step, loop("tile", run.tiles) as tile:
                row = let("row", done + step * height)
                form.multiply(height, row, buffer, panel(tile), chunk, self._into(tile, sink))
            done = let("done", done + steps * height)

    def _into(self, tile: Expr, sink: _Store) -> Sink:
        def take(row: Expr, column: Expr, sums: Expr) -> None:
            place = let("place", self.first(tile) + row * TILE + column)
            sink(place, let("run_column", tile * TILE + column), sums)

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
            yield let("place", self.first(tile) + row * TILE + column), tile * TILE + column, row
