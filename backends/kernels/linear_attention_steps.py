"""nn.linear_attention whose sums shrink (gated), in f32: token by token, since no chunk's decay divides out safely.

The sums M [D, E] of a head stand in scratch. A row of M is in registers while four tokens pass: each shrinks it, adds
to it and takes its share of the row into a result of its own. So M is read and written once for four tokens; per row,
token and vector that is a product and two multiply-adds. Up to eight neighbouring heads go through a chunk of tokens
one after the other, and bring their rows of the next chunk near meanwhile.
"""

from __future__ import annotations

import operator
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.expressions import fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import heads
from nomul.backends.kernels.head_features import Features
from nomul.backends.kernels.heads import LINE, HeadRows, shared_heads
from nomul.backends.mathlib import exp
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, opaque, when
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, lanes_folded, load, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

TOKENS = 4  # at a time
CHUNK = 64  # tokens until the next head's turn: its M comes back from the second-level cache

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if len(anchor.args) < 4 or anchor.args[3] is None:
        return "nothing shrinks the sums"
    return heads.refusal(group)


@kernel("nn.linear_attention", accepts=refusal, rank=20)
def steps(group: Group, target: Target) -> Built:
    """With decay; a tile is one query head of one batch element."""
    anchor = group.anchor
    assert anchor is not None
    batch, _, all_heads, _ = anchor.result.shape
    with KernelFrame(group, target) as frame:
        body = _Steps(frame, anchor)
        body.emit()
    tiles = batch * all_heads
    return Built(frame.function, tiles=tiles, grain=heads.grain(anchor), scratch=Dim.of(body.scratch.bytes))


class _Steps:
    """Emits the body of one kernel. Rows of four tokens stand in scratch, padded with zeros to whole vectors; tokens
    behind the last one have features of 0."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        self.frame, self.anchor = frame, anchor
        self.lanes = lanes = frame.target.vector_bytes // 4
        self.q, self.k, self.v, self.decay = (HeadRows(frame, value, lanes) for value in anchor.args[:4])
        self.operands = (self.q, self.k, self.decay, self.v)
        self.depth, self.size, self.shared = self.k.padded, self.k.size, shared_heads(anchor)
        self.heads, self.normalise = int(anchor.result.shape[2]), anchor.attrs["normalise"]
        widest = lanes * (4 if frame.target.registers >= 32 else 2)
        self.columns = min(widest, self.v.padded)
        self.width = -(-self.v.padded // self.columns) * self.columns
        self.scratch = Scratch(frame)
        rows = [TOKENS * size for size in (self.depth, self.depth, self.depth, self.width, self.width)]
        self.queries, self.keys, self.shrinks, self.values, self.results = (self._region(size) for size in rows)
        self.most = min(heads.MEMBERS, self.heads)
        self.sums_size = self.size * self.width
        self.sums, self.totals = self._region(self.most * self.sums_size), self._region(self.most * self.depth)
        self.work = self.sums.buffer
        self.epilogue = Epilogue(frame.group, anchor.result)

    def _region(self, count: int) -> Any:
        return self.scratch.region("float32", count)

    def emit(self) -> None:
        name, zero = self.anchor.attrs["map"], opaque(self.frame.begin, 0.0)
        self.fold = local("fold", "float32", self.lanes)
        self.registers = local("registers", "float32", (TOKENS + 1) * self.columns)
        self.features = [Features(rows, name) for rows in (self.q, self.k)]
        tokens = self.frame.size(self.k.tokens)
        with heads.neighbours(self.frame, self.heads, self.most) as (self.batch, head, members):
            self._clear(index(0), index(self.scratch.bytes // 4 // self.lanes), zero)
            with heads.chunks(tokens, CHUNK) as (chunk, size), loop("member", members) as self.member:
                self.head = let("head", head + self.member)
                with heads.chunks(size, TOKENS) as (first, count):
                    self._run(let("token", chunk + first), count, zero)

    def _run(self, first: Expr, count: Expr, zero: Expr) -> None:
        """Up to four tokens of a head."""
        self._read(first, count, zero)
        with loop("block", self.width // self.columns) as block:
            self._advance(let("column", block * self.columns), first, zero)
        with loop("token", count) as token:
            self._finish(token, first + token)

    def _clear(self, start: Expr, vectors: Expr, zero: Expr) -> None:
        with loop("place", vectors) as place:
            store_vector(self.work, start + place * self.lanes, spread(zero, self.lanes))

    def _read(self, first: Expr, count: Expr, zero: Expr) -> None:
        """phi of queries and keys, exp of the decay, and values of four tokens."""
        bases = self._bases(first)
        with loop("token", count) as token:
            q, k, decay, v = (base + token * rows.stride for base, rows in zip(bases, self.operands, strict=True))
            for features, source, into in zip(self.features, (q, k), (self.queries, self.keys), strict=True):
                features.write(let("source", source), self.work, let("target", token * self.depth + into.start))
            for piece, lanes in self.decay.pieces():
                with piece as place:
                    power = exp(let("decay", load(self.decay.buffer, decay + place, lanes)))
                    store_vector(self.work, token * self.depth + place + self.shrinks.start, power)
            for piece, lanes in self.v.pieces():
                with piece as place:
                    value = load(self.v.buffer, v + place, lanes)
                    store_vector(self.work, token * self.width + place + self.values.start, value)
        vectors = let("vectors", (index(TOKENS) - count) * (self.depth // self.lanes))
        for region in (self.queries, self.keys):
            self._clear(count * self.depth + region.start, vectors, zero)

    def _bases(self, token: Expr) -> list[Expr]:
        """Where the rows of the operands begin."""
        key_head = let("key_head", tirx.truncdiv(self.head, index(self.shared)))
        return [rows.base(self.batch, self.head if rows is self.q else key_head, token) for rows in self.operands]

    def _advance(self, column: Expr, first: Expr, zero: Expr) -> None:
        """Results of four tokens for a block of columns; M grows by their keys."""
        later = self._bases(first + CHUNK)
        vectors = range(0, self.columns, self.lanes)
        results = [[(token + 1) * self.columns + first for first in vectors] for token in range(TOKENS)]
        for place in [place for row in results for place in row]:
            store_vector(self.registers, place, spread(zero, self.lanes))
        sums = let("sums", self.member * self.sums_size + column * self.size + self.sums.start)
        with loop("d", self.size) as d:
            self._fetch(later, d)
            row = let("row", sums + d * self.columns)
            for first in vectors:
                store_vector(self.registers, first, load(self.work, row + first, self.lanes))
            for token in range(TOKENS):
                self._pass(token, d, column, results[token])
            for first in vectors:
                store_vector(self.work, row + first, load(self.registers, first, self.lanes))
        for token, places in enumerate(results):
            for first, place in zip(vectors, places, strict=True):
                target = token * self.width + column + first + self.results.start
                store_vector(self.work, target, load(self.registers, place, self.lanes))

    def _fetch(self, bases: list[Expr], d: Expr) -> None:
        """Brings near a line of the operand whose turn it is: of four tokens' rows by and by all."""
        turn, rest = let("turn", tirx.bitwise_and(d, index(3))), let("rest", tirx.shift_right(d, index(2)))
        for number, (rows, base) in enumerate(zip(self.operands, bases, strict=True)):
            with when(tirx.EQ(turn, index(number))):
                token, line = tirx.bitwise_and(rest, index(TOKENS - 1)), tirx.shift_right(rest, index(2))
                rows.prefetch(base, token, line * LINE)

    def _pass(self, token: int, d: Expr, column: Expr, results: list[int]) -> None:
        """One token passes a row of M, which is in the first registers."""
        lanes = self.lanes
        query, key, shrink = (
            spread(let("element", self.work[d + (token * self.depth + region.start)]), lanes)
            for region in (self.queries, self.keys, self.shrinks)
        )
        for number, result in enumerate(results):
            first = number * lanes
            value = load(self.work, column + (token * self.width + first + self.values.start), lanes)
            store_vector(self.registers, first, fma(key, value, load(self.registers, first, lanes) * shrink))
            total = load(self.registers, result, lanes)
            store_vector(self.registers, result, fma(query, load(self.registers, first, lanes), total))

    def _share(self, token: Expr) -> Expr:
        """1 / (phi(q) z + eps) of a token, or 0; z grows by its key."""
        store_vector(self.fold, 0, spread(tirx.FloatImm("float32", 0.0), self.lanes))
        with loop("piece", self.depth // self.lanes) as piece:
            place = let("place", piece * self.lanes)
            query, key, shrink = (
                load(self.work, token * self.depth + place + region.start, self.lanes)
                for region in (self.queries, self.keys, self.shrinks)
            )
            own = let("own", self.member * self.depth + place + self.totals.start)
            total = let("total", fma(load(self.work, own, self.lanes), shrink, key))
            store_vector(self.work, own, total)
            store_vector(self.fold, 0, fma(query, total, load(self.fold, 0, self.lanes)))
        return heads.share_of(lanes_folded(self.fold, self.lanes, operator.add), self.anchor.attrs["eps"])

    def _finish(self, token: Expr, at: Expr) -> None:
        """A row of the result, divided."""
        share = self._share(token) if self.normalise else None
        for piece, lanes in self.v.pieces():
            with piece as place:
                value = load(self.work, token * self.width + place + self.results.start, lanes)
                value = value if share is None else value * spread(share, lanes)
                where = (self.batch, at, self.head, lanes_at(place, lanes))
                self.frame.write(0, where, self.epilogue.apply(let("value", value), where, self.frame.read))
