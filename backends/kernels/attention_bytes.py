"""nn.quantised_attention on x86: scores are dot products of bytes, all else is as in `attention.py`.

Queries stand in the 32-bit lanes, four elements of a head each; four elements of a key are repeated over the lanes as
bytes without a sign (128 more), and what that is too much times the sum of a query's bytes is what its sums begin with.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.attention_span import QUANTISED
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import attention
from nomul.backends.kernels.attention_tiles import Tile
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import dot
from nomul.backends.tir.body import buffer_at, index, let, local, loop, store, when
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.vectors import lanes_at, load, spread
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

_QUAD = 4  # bytes of a lane
_VECTORS = 2  # of queries that share the bytes of a key
_OFFSET = -0x7F7F7F80  # 128 in each byte
_ROWS = {64: 8, 32: 4, 16: 4}  # keys of a tile, by bytes of a vector: 16 sums of 32 registers, 8 of 16

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    if (refused := attention.refusal(group)) is not None:
        return refused
    anchor = group.anchor
    assert anchor is not None
    queries, scales = attention.operand_views(anchor)[0], (anchor.args[1], anchor.args[3])
    if queries.strides[3] != Dim.of(1):
        return "the elements of a query are not neighbours"
    return None if all(scale in group.func.params for scale in scales) else "scales are seen through a view"


@kernel(QUANTISED, needs=("ssse3",), uses=dot.USES, accepts=refusal, rank=20)
def flash_bytes(group: Group, target: Target) -> Built:
    """Queries in lanes; a tile is 32 queries of one head."""
    return attention.built(group, target, ByteAttention)


class ByteAttention(attention.Attention):
    """What is a tile's own in scratch begins with the bytes of its queries, [D / 4, 32, 4]; behind the rest stand the
    factors of their scores, and what their sums begin with."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        super().__init__(frame, anchor)
        q_scale, k_scale = anchor.args[1], anchor.args[3]
        assert q_scale is not None and k_scale is not None
        self._q_scale, self._k_scale = q_scale, k_scale
        self.tile = RegisterTile.of(frame.target, None)  # few queries take vectors of bytes as wide as many do
        self.lanes = self.tile.lanes
        self._dot = dot.Dot(frame.target, wide=True)
        self._rows = _ROWS[self._dot.width]
        self._codes = buffer_at("codes", "int32", frame.scratch)
        self._factors, self._first_sums = self.own, self.own + PANEL
        self.own += 2 * PANEL

    def prepare(self, most_keys: int) -> None:
        self._rows = min(self._rows, most_keys)
        self._sums = local("byte_sums", "int32", self._rows * _VECTORS * self.lanes)

    def pack_queries(self, tile: Tile) -> None:
        """Lanes without a query repeat the last one."""
        base = let("q_base", self._base(self.q, tile.batch, tile.head))
        with loop("lane", PANEL) as lane:
            row = let("row", tirx.min(tile.first + lane, self.frame.size(self.queries) - 1))
            start = let("q_start", base + row * self.frame.size(self.q.strides[1]))
            sums = let("sums", tile.at + self._first_sums + lane)
            store(self._codes, sums, tirx.const(0, "int32"))
            with loop("d", self.depth) as d:
                total = self._codes[sums]
                element = tirx.Cast("int32", self.frame.buffer(self.q.source)[start + d])
                store(self._codes, sums, total + element * (self._dot.bias - 128))
            for step, bytes in self._steps():
                with step as number:
                    quad = self._quad(self.q.source, start + number * _QUAD, bytes)
                    store(self._codes, tile.at + number * PANEL + lane, quad)
            factor = self.frame.read(self._q_scale, (tile.batch, row, tile.head)) * tirx.FloatImm("float32", self.scale)
            store(self.work, tile.at + self._factors + lane, factor)

    def score(self, tile: Tile, head: Expr, start: Expr, place: Expr, keys: Expr) -> None:
        """Whole tiles of keys, and one that repeats the last key: there is room for scores behind it."""
        chunks = let("chunks", tirx.truncdiv(keys, index(self._rows)))
        with loop("chunk", chunks) as chunk:
            first = let("first_row", chunk * self._rows)
            self._score_rows(tile, head, start, place, [first + r for r in range(self._rows)], first)
        done = let("done", chunks * self._rows)
        with when(done < keys):
            rows = [let("row", tirx.min(done + r, keys - 1)) for r in range(self._rows)]
            self._score_rows(tile, head, start, place, rows, done)

    def _score_rows(self, tile: Tile, head: Expr, start: Expr, place: Expr, rows: list[Expr], first: Expr) -> None:
        """rows: keys of the block.  first: where their scores go."""
        stride = self.frame.size(self.k.strides[1])
        places = [let("k_place", place + row * stride) for row in rows]
        scales = [let("k_scale", self.frame.read(self._k_scale, (tile.batch, start + row, head))) for row in rows]
        with loop("pass", PANEL // (_VECTORS * self.lanes)) as number:
            columns = [let("column", (number * _VECTORS + part) * self.lanes) for part in range(_VECTORS)]
            for r in range(self._rows):
                for part, column in enumerate(columns):
                    first_sums = load(self._codes, tile.at + self._first_sums + column, self.lanes)
                    store(self._sums, self._cell(r, part), first_sums)
            for step, bytes in self._steps():
                with step as quad:
                    self._multiply(places, quad, bytes, [tile.at + quad * PANEL + column for column in columns])
            for r in range(self._rows):
                for part, column in enumerate(columns):
                    sums = tirx.Cast(f"float32x{self.lanes}", tirx.BufferLoad(self._sums, [self._cell(r, part)]))
                    factors = load(self.work, tile.at + self._factors + column, self.lanes)
                    scaled = sums * factors * spread(scales[r], self.lanes)
                    self._keep_scores(first + r, column, scaled)

    def _multiply(self, places: list[Expr], quad: Expr, bytes: int, codes: list[Expr]) -> None:
        """Four elements of the keys at `places` times those of the queries at `codes`."""
        queries = [let("q", load(self._codes, place, self.lanes)) for place in codes]
        offset = spread(tirx.IntImm("int32", _OFFSET), self.lanes)
        for r, place in enumerate(places):
            key = spread(self._quad(self.k.source, place + quad * _QUAD, bytes), self.lanes)
            weights = self._dot.weights(let("k", tirx.bitwise_xor(key, offset)))
            for part, query in enumerate(queries):
                total = tirx.BufferLoad(self._sums, [self._cell(r, part)])
                store(self._sums, self._cell(r, part), self._dot.add(total, weights, query))

    def _steps(self) -> list[tuple[Any, int]]:
        """Blocks of code that cover the elements of a head by fours: (context that gives its number, bytes of it)."""
        whole = self.depth // _QUAD
        steps = [(loop("quad", whole), _QUAD)]
        return [*steps, (loop("quad", 1, whole), self.depth % _QUAD)] if self.depth % _QUAD else steps

    def _quad(self, source: Any, place: Expr, count: int) -> Expr:
        """int32 of `count` bytes from a place on, zeros behind them."""
        buffer = self.frame.buffer(source)
        if count == _QUAD:
            return let("quad", tirx.reinterpret("int32", load(buffer, place, _QUAD)))
        total = tirx.const(0, "int32")
        for number in range(count):
            byte = tirx.bitwise_and(tirx.Cast("int32", buffer[place + number]), tirx.const(255, "int32"))
            total = tirx.bitwise_or(total, tirx.shift_left(byte, tirx.const(8 * number, "int32")))
        return let("quad", total)

    def _cell(self, row: int, part: int) -> Expr:
        return lanes_at((row * _VECTORS + part) * self.lanes, self.lanes)
