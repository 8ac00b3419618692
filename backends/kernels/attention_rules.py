"""What changes the block of scores [keys, 32 queries] of an attention kernel by the places of query and key: hidden
keys and the bias by distance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import tirx

from nomul.backends.attention_span import AttentionSpan, along
from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop, store, when
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.graph import Value

if TYPE_CHECKING:
    from nomul.backends.kernels.attention_tiles import Tile

_TILE = 2 * PANEL  # where the numbers of the tile stand
ROWS = 8  # keys that products take together
SPANS = _TILE + 16  # a cache line for them

Expr = Any


class HiddenKeys:
    """The span of each query of a tile. place: of SPANS numbers in what is the tile's own in scratch: ends of the
    spans, their firsts, and of the tile: first and end of what any query sees, then of what all see."""

    def __init__(self, frame: KernelFrame, span: AttentionSpan, place: int) -> None:
        self.frame, self.span, self.place = frame, span, place
        self.is_whole = span.is_whole
        self.numbers = buffer_at("spans", "int32", frame.scratch)

    def hull(self, batch: Expr, first: Expr, last: Expr) -> tuple[Expr, Expr]:
        """The run [first, end) of keys that any of these queries sees."""
        return self.span.first(first), self.span.end(last, self._length(batch))

    def enter(self, tile: Tile) -> None:
        """Work the spans of a tile out."""
        span, length = self.span, self._length(tile.batch)
        if self.is_whole:
            return
        last = let("last", tile.first + (tile.count - 1))
        with loop("lane", PANEL) as lane:
            query = let("query", tirx.min(tile.first + lane, last))
            self._keep(tile, lane, span.end(query, length))
            if span.has_first:
                self._keep(tile, lane + PANEL, span.first(query))
        ends = (span.first(tile.first), span.end(last, length), span.first(last), span.end(tile.first, length))
        for number, place in enumerate(ends):
            self._keep(tile, index(_TILE + number), place)

    def sees(self, tile: Tile, start: Expr, keys: int) -> Expr:
        """Whether a query of the tile may see one of `keys` keys from `start` on."""
        is_seen = start < self.end(tile)
        return tirx.And(is_seen, start + keys > self._number(tile, _TILE)) if self.span.has_first else is_seen

    def end(self, tile: Tile) -> Expr:
        """One behind the last key that a query of the tile sees."""
        return self.span.end(tile.first, None) if self.is_whole else self._number(tile, _TILE + 1)

    def start(self, tile: Tile, block: Expr) -> Expr:
        """The first key to compute of those from `block` on, some of which the tile sees."""
        if not self.span.has_first:
            return block
        return let("start", tirx.max(block, tirx.bitwise_and(self._number(tile, _TILE), index(-ROWS))))

    def apply(self, work: Any, tile: Tile, start: Expr, keys: Expr, lanes: int) -> None:
        """Hide what is outside of the spans, where a block is not inside of all of them."""
        if self.is_whole:
            return
        outside = start + keys > self._number(tile, _TILE + 3)
        if self.span.has_first:
            outside = tirx.Or(outside, start < self._number(tile, _TILE + 2))
        hidden = spread(tirx.FloatImm("float32", float("-inf")), lanes)
        with when(outside), loop("key", keys) as key:
            token = spread(let("token", tirx.Cast("int32", start + key)), lanes)
            for column in range(0, PANEL, lanes):
                place = key * PANEL + column
                score = load(work, place, lanes)
                ends = load(self.numbers, tile.at + (self.place + column), lanes)
                score = tirx.Select(token < ends, score, hidden)
                if self.span.has_first:
                    firsts = load(self.numbers, tile.at + (self.place + PANEL + column), lanes)
                    score = tirx.Select(token >= firsts, score, hidden)
                store_vector(work, place, score)

    def _length(self, batch: Expr) -> Expr | None:
        lengths = self.span.lengths
        return None if lengths is None else self.frame.read(lengths, (along(lengths, 0, batch),))

    def _keep(self, tile: Tile, number: Expr, place: Expr) -> None:
        store(self.numbers, tile.at + self.place + number, tirx.Cast("int32", place))

    def _number(self, tile: Tile, number: int) -> Expr:
        return let("number", tirx.Cast("int64", self.numbers[tile.at + (self.place + number)]))


class RelativeBias:
    """A bias [H or 1, S + T - 1] by key - query + S - 1. place: of a strip in scratch, where the lanes of a key are one
    run, since distances fall where queries rise; it holds what the keys of a block and 32 queries can be apart."""

    def __init__(self, frame: KernelFrame, bias: Value, queries: Expr, keys_of_block: int, place: int) -> None:
        self.frame, self.bias, self.queries, self.place = frame, bias, queries, place
        self.keys_of_block = keys_of_block

    def apply(self, work: Any, tile: Tile, start: Expr, keys: Expr, lanes: int) -> None:
        last = self.frame.size(self.bias.shape[1]) - 1
        most = let("most", start - tile.first + self.queries + (self.keys_of_block - 2))
        head = along(self.bias, 0, tile.head)
        with loop("apart", self.keys_of_block + PANEL - 1) as apart:
            distance = tirx.max(index(0), tirx.min(last, most - apart))
            store(work, apart + self.place, self.frame.read(self.bias, (head, let("distance", distance))))
        with loop("key", keys) as key:
            run = let("run", index(self.place + self.keys_of_block - 1) - key)
            for column in range(0, PANEL, lanes):
                place = let("place", key * PANEL + column)
                store_vector(work, place, load(work, place, lanes) + load(work, run + column, lanes))
