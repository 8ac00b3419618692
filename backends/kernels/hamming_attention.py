"""nn.hamming_attention in f32: sums of values chosen by bits, four bits at a time by look-ups (the "four Russians").

    keys:    sums of four rows of v, all 16 of them, are made once; each bit of the codes adds one of them to its row of
             M = k^T v: a quarter of an addition a bit and token
    queries: sums of four rows of M, all 16 of them, are made once for all tokens; each four bits of a code add one of
             them to the result

Nothing is multiplied but by the two constants and by the share of a result of length 1. Up to eight neighbouring heads
go through a chunk of tokens side by side, so that memory is read in the order in which it stands.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from math import pi
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.expressions import fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import heads
from nomul.backends.kernels.hamming_codes import BITS, SUMS, KeyNumbers, QueryPlaces
from nomul.backends.kernels.heads import LINE, HeadRows
from nomul.backends.kernels.row_sweep import square_root
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, opaque
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, lanes_folded, load, prefetch, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

CHUNK = 64  # tokens
COLUMNS = 32  # that are summed up together
_LOOKUPS = 8  # tables at a time: those of 32 columns stay in the first-level cache
_TOGETHER = 8  # groups of tokens whose sums a row of M takes at a time

Expr = Any


@kernel("nn.hamming_attention", accepts=heads.refusal, rank=20)
def looked_up(group: Group, target: Target) -> Built:
    """A tile is one head of one batch element."""
    anchor = group.anchor
    assert anchor is not None
    batch, _, all_heads, _ = anchor.result.shape
    with KernelFrame(group, target) as frame:
        body = _Hamming(frame, anchor)
        body.emit()
    tiles = batch * all_heads
    return Built(frame.function, tiles=tiles, grain=heads.grain(anchor), scratch=Dim.of(body.scratch.bytes))


class _Hamming:
    """Emits the body of one kernel. Rows are padded with zeros: of values to a multiple of 32, of bits to one of 4."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        self.frame, self.anchor = frame, anchor
        self.lanes = lanes = frame.target.vector_bytes // 4
        self.q, self.k, self.v = (HeadRows(frame, value, lanes) for value in anchor.args[:3])
        self.heads, self.width = int(anchor.result.shape[2]), self.v.size
        self.padded = -(-self.width // COLUMNS) * COLUMNS
        self.bits, self.groups = self.q.size, -(-self.q.size // BITS)
        self.most = min(heads.MEMBERS, self.heads)
        self.epilogue = Epilogue(frame.group, anchor.result)
        self.sizes = {
            "values": CHUNK * self.padded,
            "sums": self.groups * BITS * self.padded,  # M: [columns / 32][bits][32]
            "tables": self.groups * SUMS * self.padded,  # [columns / 32][bits / 4][16][32]
        }
        self.scratch = Scratch(frame)
        self.chosen = self.scratch.region("float32", _TOGETHER * SUMS * COLUMNS)  # sums of four rows of v
        self.work = self.chosen.buffer
        self.regions = {name: self.scratch.region("float32", self.most * size) for name, size in self.sizes.items()}
        self.by_key = KeyNumbers(self.k, self.scratch, self.most, CHUNK)
        self.by_query = QueryPlaces(self.q, self.scratch, self.most, CHUNK, COLUMNS)

    def emit(self) -> None:
        zero = opaque(self.frame.begin, 0.0)
        self.fold = local("fold", "float32", self.lanes)
        with heads.neighbours(self.frame, self.heads, self.most) as (self.batch, self.head, self.members):
            self._clear(zero)
            tokens = self.frame.size(self.v.tokens)
            with heads.chunks(tokens, CHUNK) as (first, count):
                self._read(first, count)
                with loop("member", self.members) as member:
                    self._add(member, first, count)
            with loop("member", self.members) as member:
                self._tabulate(member)
            with heads.chunks(tokens, CHUNK) as (first, count):
                self._ask(first, count)

    def _at(self, name: str, member: Expr) -> Expr:
        """Where a part of a head's scratch begins."""
        return let(name, member * self.sizes[name] + self.regions[name].start)

    def _clear(self, zero: Expr) -> None:
        for name in ("sums", "values"):
            with loop("place", self.members * (self.sizes[name] // self.lanes)) as place:
                store_vector(self.work, place * self.lanes + self.regions[name].start, spread(zero, self.lanes))

    # -- keys --------------------------------------------------------------------------------------------------
    def _read(self, first: Expr, count: Expr) -> None:
        """Values of a chunk and the codes of its keys; rows behind the last one keep values, but have no bits."""
        with self.v.rows(self.v.base(self.batch, self.head, first), count, self.members) as (member, row, source):
            target = let("target", self._at("values", member) + row * self.padded)
            for piece, lanes in self.v.pieces():
                with piece as place:
                    store_vector(self.work, target + place, load(self.v.buffer, source + place, lanes))
        base = self.k.base(self.batch, self.head, first)
        self.by_key.read(base, count, self.members, _TOGETHER * BITS)

    def _add(self, member: Expr, first: Expr, count: Expr) -> None:
        """M += k^T v."""
        together = _TOGETHER * BITS
        values, sums = self._at("values", member), self._at("sums", member)
        parts = let("parts", tirx.truncdiv(count + (together - 1), index(together)))
        with loop("block", self.padded // COLUMNS) as block, loop("part", parts) as part:
            column, tokens = let("column", block * COLUMNS), let("tokens", part * together)
            with loop("group", _TOGETHER) as group:
                source = let("source", values + (tokens + group * BITS) * self.padded + column)
                with loop("piece", COLUMNS // self.lanes) as piece:
                    target = let("target", group * (SUMS * COLUMNS) + piece * self.lanes + self.chosen.start)
                    self._all_sums(source + piece * self.lanes, self.padded, target, COLUMNS)
            rows, fetch = let("rows", sums + column * (self.groups * BITS)), self._fetch(member, first + tokens, column)
            with loop("bit", self.bits) as bit:
                fetch(bit)
                self._add_bit(let("row", rows + bit * COLUMNS), member, part * _TOGETHER, bit)

    def _fetch(self, member: Expr, token: Expr, column: Expr) -> Callable[[Expr], None]:
        """What brings a line of the next chunk's values and codes into the caches, another one for each bit."""
        values, codes = (x.base(self.batch, self.head + member, token + CHUNK) for x in (self.v, self.k))

        def fetch(bit: Expr) -> None:
            row = let("row", tirx.bitwise_and(tirx.shift_right(bit, index(1)), index(_TOGETHER * BITS - 1)))
            self.v.prefetch(values, row, column + tirx.bitwise_and(bit, index(1)) * LINE)
            self.k.prefetch(codes, row, index(0))

        return fetch

    def _add_bit(self, row: Expr, member: Expr, first: Expr, bit: Expr) -> None:
        """For each group of four tokens the sum of values that one bit of them chooses."""
        numbers = [self.by_key.number(member, first + group, bit) for group in range(_TOGETHER)]
        starts = range(self.chosen.start, self.chosen.start + _TOGETHER * SUMS * COLUMNS, SUMS * COLUMNS)
        places = [let("place", number * COLUMNS + start) for number, start in zip(numbers, starts, strict=True)]
        totals = []
        for column in range(0, COLUMNS, self.lanes):
            total = load(self.work, row + column, self.lanes)
            for place in places:
                total = total + load(self.work, place + column, self.lanes)
            totals.append(let("total", total))
        for total, column in zip(totals, range(0, COLUMNS, self.lanes), strict=True):
            store_vector(self.work, row + column, total)

    def _all_sums(self, source: Expr, step: int, target: Expr, apart: int) -> None:
        rows = [let("value", load(self.work, source + row * step, self.lanes)) for row in range(BITS)]
        sums: list[Expr] = [spread(tirx.FloatImm("float32", 0.0), self.lanes)]
        for number in range(1, SUMS):
            top = number.bit_length() - 1
            rest = number - (1 << top)
            sums.append(let("sum", sums[rest] + rows[top]) if rest else rows[top])
        for number, total in enumerate(sums):
            store_vector(self.work, target + number * apart, total)

    # -- queries -----------------------------------------------------------------------------------------------
    def _tabulate(self, member: Expr) -> None:
        """All sums of four rows of M, for 32 columns at a time."""
        sums, tables = self._at("sums", member), self._at("tables", member)
        with loop("group", self.padded // COLUMNS * self.groups) as group:
            source, target = sums + group * (BITS * COLUMNS), tables + group * (SUMS * COLUMNS)
            with loop("piece", COLUMNS // self.lanes) as piece:
                place = let("place", piece * self.lanes)
                self._all_sums(let("source", source + place), COLUMNS, let("target", target + place), COLUMNS)

    def _ask(self, first: Expr, count: Expr) -> None:
        """Results of a chunk: sums chosen by the codes into scratch, then whole rows in the order of memory."""
        self.by_query.read(self.q.base(self.batch, self.head, first), count, self.members)
        whole = self.groups // _LOOKUPS
        with loop("member", self.members) as member:
            values, tables = self._at("values", member), self._at("tables", member)
            with loop("block", self.padded // COLUMNS) as block:
                column = let("column", block * COLUMNS)
                at, table = (member, first, column), let("table", tables + column * (self.groups * SUMS))
                with loop("run", whole) as run:
                    self._look_up(at, table, values + column, (run, _LOOKUPS), count)
                if self.groups % _LOOKUPS:
                    self._look_up(at, table, values + column, (index(whole), self.groups % _LOOKUPS), count)
        with self.v.rows(self.v.base(self.batch, self.head, first), count, self.members) as (member, row, source):
            self._finish(let("at", self._at("values", member) + row * self.padded), source, (member, first + row))

    def _look_up(
        self, at: tuple[Expr, Expr, Expr], table: Expr, target: Expr, run: tuple[Expr, int], count: Expr
    ) -> None:
        """One entry for each four bits, of 32 columns, added to each row. at: member, token and column.
        run: its number, and how many tables."""
        columns = range(0, COLUMNS, self.lanes)
        zero = spread(tirx.FloatImm("float32", 0.0), self.lanes)
        fetch = self._later(*at)
        with loop("row", count) as row:
            fetch(row, run[0])
            place = let("place", target + row * self.padded)
            groups = [run[0] * _LOOKUPS + number for number in range(run[1])]
            entries = [let("entry", table + self.by_query.place(at[0], row, group)) for group in groups]
            for column in columns:
                total = tirx.Select(run[0] > 0, load(self.work, place + column, self.lanes), zero)
                for entry in entries:
                    total = total + load(self.work, entry + column, self.lanes)
                store_vector(self.work, place + column, total)

    def _later(self, member: Expr, first: Expr, column: Expr) -> Callable[[Expr, Expr], None]:
        """What brings a line of a row of the next chunk's values, codes and results into the caches, another one in
        each of two runs."""
        head, token = self.head + member, let("token", first + CHUNK)
        values, codes = (x.base(self.batch, head, token) for x in (self.v, self.q))
        result, shape = self.frame.buffer(self.frame.results[0]), self.anchor.result.shape

        def fetch(row: Expr, run: Expr) -> None:
            line = let("line", tirx.bitwise_and(run, index(1)) * LINE + column)
            self.v.prefetch(values, row, line)
            self.q.prefetch(codes, row, index(0))
            prefetch(result, self.frame.offset(shape, (self.batch, token + row, head, line)), 1, 2)

        return fetch

    def _finish(self, start: Expr, source: Expr, at: tuple[Expr, Expr]) -> None:
        """v / 2 + sums / pi of a row, at length 1 where that is asked for."""
        member, token = at
        if self.anchor.attrs["normalise"]:
            store_vector(self.fold, 0, spread(tirx.FloatImm("float32", 0.0), self.lanes))
        for piece, lanes in self.v.pieces():
            with piece as place:
                half = load(self.v.buffer, source + place, lanes) * _constant(0.5, lanes)
                value = let("value", fma(load(self.work, start + place, lanes), _constant(1 / pi, lanes), half))
                store_vector(self.work, start + place, value)
                if self.anchor.attrs["normalise"]:
                    store_vector(self.fold, 0, fma(value, value, load(self.fold, 0, lanes)))
        share = None
        if self.anchor.attrs["normalise"]:
            total = let("total", lanes_folded(self.fold, self.lanes, operator.add))
            zero, one = _constant(0.0, 1), _constant(1.0, 1)
            share = let("share", tirx.Select(total > zero, one / square_root(total), zero))
        for piece, lanes in self.v.pieces():
            with piece as place:
                value = load(self.work, start + place, lanes)
                value = value if share is None else value * spread(share, lanes)
                where = (self.batch, token, self.head + member, lanes_at(place, lanes))
                self.frame.write(0, where, self.epilogue.apply(let("value", value), where, self.frame.read))


def _constant(value: float, lanes: int) -> Expr:
    return spread(tirx.FloatImm("float32", value), lanes)
