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
    from nomul.backends.kernels.attention import Tile

Expr = Any


class HiddenKeys:
    """The span of each query of a tile. place: of 2 * 32 numbers in scratch, ends of the spans, then their firsts."""

    def __init__(self, frame: KernelFrame, span: AttentionSpan, place: int) -> None:
        self.frame, self.span, self.place = frame, span, place
        self.numbers = buffer_at("spans", "int32", frame.scratch)

    def enter(self, tile: Tile) -> tuple[Expr, Expr]:
        """Work the spans of a tile out; returns the run [first, end) of keys that any of its queries sees."""
        span, length = self.span, None
        if span.lengths is not None:
            length = self.frame.read(span.lengths, (along(span.lengths, 0, tile.batch),))
        last = tile.first + (tile.count - 1)
        if not span.is_whole:
            with loop("lane", PANEL) as lane:
                query = let("query", tirx.min(tile.first + lane, last))
                store(self.numbers, lane + self.place, tirx.Cast("int32", span.end(query, length)))
                if span.has_first:
                    store(self.numbers, lane + (self.place + PANEL), tirx.Cast("int32", span.first(query)))
        self.latest_first, self.earliest_end = span.first(last), span.end(tile.first, length)
        return span.first(tile.first), span.end(last, length)

    def apply(self, work: Any, scores: int, start: Expr, keys: Expr, lanes: int) -> None:
        """Hide what is outside of the spans, where a block is not inside of all of them."""
        if self.span.is_whole:
            return
        outside = start + keys > self.earliest_end
        if self.span.has_first:
            outside = tirx.Or(outside, start < self.latest_first)
        hidden = spread(tirx.FloatImm("float32", float("-inf")), lanes)
        with when(outside), loop("key", keys) as key:
            token = spread(let("token", tirx.Cast("int32", start + key)), lanes)
            for column in range(0, PANEL, lanes):
                place = scores + key * PANEL + column
                score = load(work, place, lanes)
                ends = load(self.numbers, index(self.place + column), lanes)
                score = tirx.Select(token < ends, score, hidden)
                if self.span.has_first:
                    firsts = load(self.numbers, index(self.place + PANEL + column), lanes)
                    score = tirx.Select(token >= firsts, score, hidden)
                store_vector(work, place, score)


class RelativeBias:
    """A bias [H or 1, S + T - 1] by key - query + S - 1. place: of a strip in scratch, where the lanes of a key are one
    run, since distances fall where queries rise; it holds what the keys of a block and 32 queries can be apart."""

    def __init__(self, frame: KernelFrame, bias: Value, queries: Expr, keys_of_block: int, place: int) -> None:
        self.frame, self.bias, self.queries, self.place = frame, bias, queries, place
        self.keys_of_block = keys_of_block

    def apply(self, work: Any, scores: int, tile: Tile, start: Expr, keys: Expr, lanes: int) -> None:
        last = self.frame.size(self.bias.shape[1]) - 1
        most = let("most", start - tile.first + self.queries + (self.keys_of_block - 2))
        head = along(self.bias, 0, tile.head)
        with loop("apart", self.keys_of_block + PANEL - 1) as apart:
            distance = tirx.max(index(0), tirx.min(last, most - apart))
            store(work, apart + self.place, self.frame.read(self.bias, (head, let("distance", distance))))
        with loop("key", keys) as key:
            run = let("run", index(self.place + self.keys_of_block - 1) - key)
            for column in range(0, PANEL, lanes):
                place = let("place", scores + key * PANEL + column)
                store_vector(work, place, load(work, place, lanes) + load(work, run + column, lanes))
