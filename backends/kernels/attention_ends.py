"""How a tile of an attention kernel begins and ends: rows of queries become a panel Q^T, and sums O^T rows of the
result, square blocks at a time."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.frame import KernelFrame
from nomul.backends.kernels.attention_tiles import Tile
from nomul.backends.tir.body import index, let, loop, store
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.transposition import transposed
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.views import View

Expr = Any


class QueryPanel:
    """Q^T [depth, 32] of f32 queries times a scale. queries: how many a head has; lanes: of vectors."""

    def __init__(self, frame: KernelFrame, view: View, queries: Dim, depth: int, lanes: int, scale: float) -> None:
        self.queries, self.depth, self.lanes = frame.size(queries), depth, lanes
        self.buffer = frame.buffer(view.source)
        self.down, self.across = (frame.size(view.strides[axis]) for axis in (1, 3))
        self.whole = depth // lanes * lanes if view.strides[3] == Dim.of(1) else 0
        self.scale = tirx.FloatImm("float32", scale)

    def pack(self, work: Any, tile: Tile, base: Expr) -> None:
        """The tile's queries to where what is its own begins; lanes without a query repeat the last one. base: where
        the head's first query begins."""

        def start(lane: Expr | int) -> Expr:
            return let("q_start", base + tirx.min(tile.first + lane, self.queries - 1) * self.down)

        for column in range(0, PANEL if self.whole else 0, self.lanes):
            self._pack_vectors(work, [start(column + lane) for lane in range(self.lanes)], tile.at + column)
        if self.whole < self.depth:
            with loop("lane", PANEL) as lane:
                place = start(lane)
                with loop("d", self.depth - self.whole, self.whole) as d:
                    store(work, tile.at + d * PANEL + lane, self.buffer[place + d * self.across] * self.scale)

    def _pack_vectors(self, work: Any, starts: list[Expr], target: Expr) -> None:
        with loop("piece", self.whole // self.lanes) as piece:
            d = let("d", piece * self.lanes)
            scale = spread(self.scale, self.lanes)
            rows = [let("row", load(self.buffer, start + d, self.lanes) * scale) for start in starts]
            for number, elements in enumerate(transposed(rows)):
                store_vector(work, target + (d + number) * PANEL, elements)


class ResultRows:
    """Rows of the result, finished by the element-wise nodes behind it. width: of a head; lanes: of vectors."""

    def __init__(self, frame: KernelFrame, epilogue: Epilogue, width: int, lanes: int) -> None:
        self.frame, self.epilogue, self.width, self.lanes = frame, epilogue, width, lanes

    def write(self, work: Any, tile: Tile, sums: Expr, shares: Expr) -> None:
        """O^T [width, 32] at `sums` times the lanes' 32 `shares`. What stands at the begin of `work`, 32 vectors, is
        lost."""
        whole = self.width // self.lanes * self.lanes
        with loop("piece", whole // self.lanes) as piece:
            first = let("e", piece * self.lanes)
            self._turn(work, let("block", sums + first * PANEL), shares)
            with loop("lane", tile.count) as lane:
                self._write(tile, lane, lanes_at(first, self.lanes), load(work, lane * self.lanes, self.lanes))
        if whole < self.width:
            with loop("lane", tile.count) as lane, loop("e", self.width - whole, whole) as e:
                self._write(tile, lane, e, work[sums + e * PANEL + lane] * work[shares + lane])

    def _turn(self, work: Any, sums: Expr, shares: Expr) -> None:
        """A vector of columns of 32 rows."""
        for column in range(0, PANEL, self.lanes):
            share = let("share", load(work, shares + column, self.lanes))
            rows = [let("row", load(work, sums + r * PANEL + column, self.lanes) * share) for r in range(self.lanes)]
            for lane, elements in enumerate(transposed(rows)):
                store_vector(work, index((column + lane) * self.lanes), elements)

    def _write(self, tile: Tile, lane: Expr, e: Expr, value: Expr) -> None:
        place = (tile.batch, let("row", tile.first + lane), tile.head, e)
        self.frame.write(0, place, self.epilogue.apply(let("value", value), place, self.frame.read))
