"""nn.linear_attention in f32: sums M = phi(K)^T V of a head stand in scratch as panels, and grow by chunks of tokens.

To all keys: M over all chunks, then phi(Q) M. To earlier keys only, for each chunk of 32 tokens in turn

    [phi(Q) | A] x [M ; V],   A = phi(Q) phi(K)^T where the key is not later than the query,   then M += phi(K)^T V

so that one product gives what comes from earlier chunks and from the chunk itself (Hua et al. 2022, Yang et al. 2024).
All products run in nn.linear's inner kernel. A tile is one key head with all query heads that read it; up to eight
neighbouring heads go side by side, so that memory is read in the order in which it stands. Scratch does not grow with
the tokens.
"""

from __future__ import annotations

import operator
from typing import Any

from tvm import tirx

from nomul.backends.expressions import fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import heads
from nomul.backends.kernels.head_features import Features
from nomul.backends.kernels.heads import LINE, HeadRows, shared_heads
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, opaque, store
from nomul.backends.tir.gemm import InnerKernel, Panel, Product, Reduction, Rows
from nomul.backends.tir.output import Output, Part, Place, column_pieces
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.transposition import transposed
from nomul.backends.tir.vectors import lanes_folded, load, prefetch, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

CHUNK = 32  # tokens, a panel of keys
ROWS = 16  # queries whose results are computed together; they see keys of their chunk up to a multiple of this

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if anchor.operand(3) is not None:
        return "sums that shrink go token by token"
    return heads.refusal(group)


@kernel("nn.linear_attention", accepts=refusal, rank=20)
def chunks(group: Group, target: Target) -> Built:
    """Without decay; a tile is one key head of one batch element."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[1] is not None
    batch, _, key_heads, _ = anchor.args[1].shape
    with KernelFrame(group, target) as frame:
        body = _Chunks(frame, anchor)
        body.emit()
    tiles = batch * key_heads
    return Built(frame.function, tiles=tiles, grain=heads.grain(anchor), scratch=Dim.of(body.scratch.bytes))


class _Chunks:
    """Emits the body of one kernel. Rows of features are padded with zeros to whole vectors."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        assert anchor.args[1] is not None
        self.frame, self.anchor = frame, anchor
        self.lanes = lanes = frame.target.vector_bytes // 4
        self.q, self.k, self.v = (HeadRows(frame, value, lanes) for value in anchor.args[:3])
        self.depth, self.width, self.shared = self.q.padded, self.v.size, shared_heads(anchor)
        self.key_heads = int(anchor.args[1].shape[2])
        self.causal, self.normalise = anchor.attrs["causal"], anchor.attrs["normalise"]
        self.panels, self.most = -(-self.width // PANEL), min(heads.MEMBERS, self.key_heads)
        self.reach = self.depth + (CHUNK if self.causal else 0)  # elements of a row [phi(Q) | A]
        self.sizes = {
            "keys": CHUNK * self.depth,
            "queries": CHUNK * self.reach,
            "sums": self.panels * (self.depth + CHUNK) * PANEL,  # [M ; V] of each panel
            "totals": self.depth,
        }
        self.scratch = Scratch(frame)
        self.outputs = self.scratch.region("float32", ROWS * PANEL)
        self.turned = self.scratch.region("float32", PANEL * self.depth if self.causal else 0)
        self.shares = self.scratch.region("float32", CHUNK)
        self.regions = {name: self.scratch.region("float32", self.most * size) for name, size in self.sizes.items()}
        self.work = self.outputs.buffer
        self.output = Output(frame, anchor, None, lanes, Dim.of(self.width))

    def emit(self) -> None:
        target, zero, name = self.frame.target, opaque(self.frame.begin, 0.0), self.anchor.attrs["map"]
        self.fold = local("fold", "float32", self.lanes)
        self.features = {id(rows): Features(rows, name) for rows in (self.q, self.k)}
        self.by_value = InnerKernel(RegisterTile.of(target, self.width), [self.k.size], zero=zero)
        self.by_sum = InnerKernel(RegisterTile.of(target, self.width), [ROWS], padded=True, zero=zero)
        self.by_key = InnerKernel(RegisterTile.of(target, PANEL), [ROWS], padded=True)
        with heads.neighbours(self.frame, self.key_heads, self.most) as (self.batch, self.key_head, self.members):
            self._clear(zero)
            keys, queries = (self.frame.size(rows.tokens) for rows in (self.k, self.q))
            if self.causal:
                with heads.chunks(keys, CHUNK) as (first, count):
                    self._read_keys(first, count)
                    self._ask(first, count)
                    self._add(first, count)
            else:
                with heads.chunks(keys, CHUNK) as (first, count):
                    self._read_keys(first, count)
                    self._add(first, count)
                with heads.chunks(queries, CHUNK) as (first, count):
                    self._ask(first, count)

    def _at(self, name: str, member: Expr) -> Expr:
        """Where a part of a head's scratch begins."""
        return let(name, member * self.sizes[name] + self.regions[name].start)

    # -- keys --------------------------------------------------------------------------------------------------
    def _clear(self, zero: Expr) -> None:
        """Sums, and whatever else is multiplied without having been computed."""
        for name in self.sizes if self.q.size != self.depth else ("sums", "totals"):
            with loop("place", self.members * (self.sizes[name] // self.lanes)) as place:
                store_vector(self.work, place * self.lanes + self.regions[name].start, spread(zero, self.lanes))

    def _read_keys(self, first: Expr, count: Expr) -> None:
        """phi(K) of a chunk row by row, and V as the lower part of the panels."""
        with self.k.rows(self.k.base(self.batch, self.key_head, first), count, self.members) as (member, row, source):
            self.features[id(self.k)].write(source, self.work, self._at("keys", member) + row * self.depth)
        with self.v.rows(self.v.base(self.batch, self.key_head, first), count, self.members) as (member, row, source):
            target = let("target", self._at("sums", member) + (row + self.depth) * PANEL)
            with loop("panel", self.panels) as panel:
                column = let("column", panel * PANEL)
                used = let("used", tirx.min(index(PANEL), index(self.width) - column))
                into = let("into", target + self._panel(panel))
                for piece, lanes in column_pieces(Dim.of(self.width), self.lanes, PANEL, used):
                    with piece as place:
                        store_vector(self.work, into + place, load(self.v.buffer, source + column + place, lanes))

    def _turn(self, member: Expr, count: Expr) -> None:
        """phi(K)^T as a panel, a square block at a time; with rows of an earlier chunk behind the last one."""
        side, keys = self.lanes, self._at("keys", member)
        with loop("down", tirx.truncdiv(count + (side - 1), index(side))) as down:
            target = let("target", down * side + self.turned.start)
            with loop("across", self.depth // side) as across:
                source = let("source", keys + down * (side * self.depth) + across * side)
                block = [let("row", load(self.work, source + row * self.depth, side)) for row in range(side)]
                for row, vector in enumerate(transposed(block)):
                    store_vector(self.work, target + (across * side + row) * PANEL, vector)

    def _add(self, first: Expr, count: Expr) -> None:
        """M += phi(K)^T V, and the totals of phi(K)."""
        with loop("member", self.members) as member:
            keys, sums = self._at("keys", member), self._at("sums", member)
            later = [x.base(self.batch, self.key_head + member, first + CHUNK) for x in (self.k, self.v)]
            with loop("panel", self.panels) as panel:
                start = let("start", sums + self._panel(panel))

                def grow(row: Expr, column: Expr, new: Expr) -> None:
                    place = let("place", start + row * PANEL + column)
                    store_vector(self.work, place, load(self.work, place, int(new.ty.dtype.lanes)) + new)

                def ahead(row: Expr, step: Expr) -> None:
                    self.k.prefetch(later[0], step, row)
                    self.v.prefetch(later[1], step, panel * PANEL + tirx.bitwise_and(row, index(PANEL - 1)))

                rows, values = Rows(self.work, keys, 1, self.depth), Panel(self.work, start + self.depth * PANEL)
                self.by_value.block(self.k.size, PANEL, Product(rows, values, Reduction(count), grow, ahead))
            if self.normalise:
                self._total(keys, self._at("totals", member), count)

    def _total(self, keys: Expr, totals: Expr, count: Expr) -> None:
        with loop("piece", self.depth // self.lanes) as piece:
            place = let("place", piece * self.lanes)
            store_vector(self.fold, 0, load(self.work, totals + place, self.lanes))
            with loop("row", count) as row:
                key = load(self.work, keys + row * self.depth + place, self.lanes)
                store_vector(self.fold, 0, load(self.fold, 0, self.lanes) + key)
            store_vector(self.work, totals + place, load(self.fold, 0, self.lanes))

    # -- queries -----------------------------------------------------------------------------------------------
    def _ask(self, first: Expr, count: Expr) -> None:
        """Results of a chunk of queries, for each head that reads these key heads."""
        with loop("shared", self.shared) as number:
            head = let("head", self.key_head * self.shared + number)
            base = self.q.base(self.batch, head, first)
            with self.q.rows(base, count, self.members, self.shared) as (member, row, source):
                self.features[id(self.q)].write(source, self.work, self._at("queries", member) + row * self.reach)
            with loop("member", self.members) as member:
                if self.causal:
                    self._turn(member, count)
                self._answers(member, let("head", head + member * self.shared), first, count)

    def _answers(self, member: Expr, head: Expr, first: Expr, count: Expr) -> None:
        queries = self._at("queries", member)
        with loop("group", tirx.truncdiv(count + (ROWS - 1), index(ROWS))) as group:
            row = let("row", group * ROWS)
            start, used = let("start", queries + row * self.reach), let("used", tirx.min(index(ROWS), count - row))
            steps = let("steps", row + (self.depth + ROWS)) if self.causal else index(self.depth)
            if self.causal:
                self._score(start, row)
            if self.normalise:
                self._divide(start, self._at("totals", member), used, steps)
            self._answer(self._at("sums", member), start, (head, let("token", first + row)), used, steps)

    def _score(self, start: Expr, first: Expr) -> None:
        """A of 16 queries, beside their features; 0 where the key is later."""

        def keep(row: Expr, key: Expr, scores: Expr) -> None:
            lanes = int(scores.ty.dtype.lanes)
            behind = let("behind", tirx.Cast("int32", first + row - key))
            seen = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes) <= spread(behind, lanes)
            zero = spread(tirx.FloatImm("float32", 0.0), lanes)
            store_vector(self.work, start + row * self.reach + self.depth + key, tirx.Select(seen, scores, zero))

        keys = Panel(self.work, index(self.turned.start))
        self.by_key.block(ROWS, PANEL, Product(Rows(self.work, start, self.reach), keys, Reduction(self.depth), keep))

    def _divide(self, start: Expr, totals: Expr, count: Expr, steps: Expr) -> None:
        """Shares 1 / (phi(q) z + sum of A + eps) of rows, or 0."""
        lanes = self.lanes
        with loop("row", count) as number:
            row = let("row", start + number * self.reach)
            store_vector(self.fold, 0, spread(tirx.FloatImm("float32", 0.0), lanes))
            with loop("piece", self.depth // lanes) as piece:
                features, sums = (load(self.work, place + piece * lanes, lanes) for place in (row, totals))
                store_vector(self.fold, 0, fma(features, sums, load(self.fold, 0, lanes)))
            with loop("piece", tirx.truncdiv(steps - self.depth, index(lanes))) as piece:
                scores = load(self.work, row + piece * lanes + self.depth, lanes)
                store_vector(self.fold, 0, load(self.fold, 0, lanes) + scores)
            total = lanes_folded(self.fold, lanes, operator.add)
            store(self.work, number + self.shares.start, heads.share_of(total, self.anchor.attrs["eps"]))

    def _answer(self, sums: Expr, start: Expr, at: tuple[Expr, Expr], count: Expr, steps: Expr) -> None:
        """[phi(Q) | A] x [M ; V] of 16 queries times their shares. at: head and first token."""
        head, token = at
        tokens, stride = self.frame.size(self.q.tokens), self.key_heads * self.shared * self.width
        base = let("flat", (self.batch * tokens + token) * stride + head * self.width)
        later, result = self.q.base(self.batch, head, token + CHUNK), self.frame.buffer(self.frame.results[0])

        def keep(row: Expr, column: Expr, new: Expr) -> None:
            store_vector(self.work, row * PANEL + column + self.outputs.start, new)

        def place(number: Expr) -> Place:
            return Place(base + number * stride, lambda: (self.batch, token + number, head))

        scale = (lambda number: self.work[number + self.shares.start]) if self.normalise else None
        with loop("panel", self.panels) as panel:
            column = let("column", panel * PANEL)
            columns = let("columns", tirx.min(index(PANEL), index(self.width) - column))

            def ahead(row: Expr, step: Expr) -> None:
                number = let("number", row + tirx.bitwise_and(step, index(7)))
                self.q.prefetch(later, number, tirx.bitwise_and(step, index(-LINE)))
                line = tirx.bitwise_and(step * 2, index(LINE)) + column
                prefetch(result, base + (number + CHUNK) * stride + line, 1, 2)

            rows, panels = Rows(self.work, start, self.reach), Panel(self.work, sums + self._panel(panel))
            self.by_sum.block(ROWS, columns, Product(rows, panels, Reduction(steps), keep, ahead))
            self.output.write_rows(Part(count, place, stride, column, columns), self.outputs.start, scale)

    def _panel(self, number: Expr) -> Expr:
        """Where a panel begins, from that of the first one."""
        return number * ((self.depth + CHUNK) * PANEL)
