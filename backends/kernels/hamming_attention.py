"""nn.hamming_attention in f32: sums of values chosen by bits, four bits at a time by look-ups (the "four Russians").

    keys:    sums of four rows of v, all 16 of them, are made once; each bit of the codes adds one of them to its row of
             M = k^T v: a quarter of an addition a bit and token
    queries: sums of four rows of M, all 16 of them, are made once for all tokens; each four bits of a code add one of
             them to the result

In both, 64 bits are a word in a register, and sixteen tables of 16 columns (16 kB) stay in the first-level cache.

Nothing is multiplied but by the two constants and by the share of a result of length 1. Up to eight neighbouring heads
go through a chunk of tokens side by side, so that memory is read in the order in which it stands.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from math import pi
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.expressions import fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import heads
from nomul.backends.kernels.hamming_codes import BITS, SUMS, WORD, KeyWords, QueryWords, chosen
from nomul.backends.kernels.heads import HeadRows
from nomul.backends.kernels.row_sweep import square_root
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, opaque
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, lanes_folded, load, prefetch, spread, store_vector, zeros
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

CHUNK = 2 * WORD  # tokens
COLUMNS = 16  # that are summed up together: a cache line
_TABLES = WORD // BITS  # at a time: those of 16 columns stay in the first-level cache

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
    """Emits the body of one kernel. Rows are padded: of values to a multiple of 16, of bits to one of 4."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        self.frame, self.anchor = frame, anchor
        self.lanes = lanes = frame.target.vector_bytes // 4
        self.q, self.k, self.v = (HeadRows(frame, value, lanes) for value in anchor.args[:3])
        self.heads, self.width = int(anchor.result.shape[2]), self.v.size
        self.blocks = -(-self.width // COLUMNS)
        self.padded = self.blocks * COLUMNS
        self.bits, self.groups = self.q.size, -(-self.q.size // BITS)
        self.most = min(heads.MEMBERS, self.heads)
        self.epilogue = Epilogue(frame.group, anchor.result)
        self.sizes = {
            "values": CHUNK * self.padded,
            "sums": self.groups * BITS * self.padded,  # M: [columns / 16][bits][16]
            "tables": self.groups * SUMS * self.padded,  # [columns / 16][bits / 4][16][16]
        }
        self.scratch = Scratch(frame)
        self.chosen = self.scratch.region("float32", _TABLES * SUMS * COLUMNS)  # sums of four rows of v
        self.work = self.chosen.buffer
        self.regions = {name: self.scratch.region("float32", self.most * size) for name, size in self.sizes.items()}
        self.by_key = KeyWords(self.k, self.scratch, self.most, CHUNK)
        self.by_query = QueryWords(self.q, self.scratch, self.most, CHUNK)

    def emit(self) -> None:
        zero = opaque(self.frame.begin, 0.0)
        self.fold, self.row = local("fold", "float32", self.lanes), local("row", "float32", self.padded)
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
        """M, and the sums of no values at all: of tokens that are not there those alone are taken."""
        regions = [(self.chosen.start, index(_TABLES * SUMS * COLUMNS))]
        regions += [(self.regions[name].start, self.members * self.sizes[name]) for name in ("sums", "values")]
        for start, size in regions:
            with loop("place", tirx.truncdiv(size, index(self.lanes))) as place:
                store_vector(self.work, place * self.lanes + start, spread(zero, self.lanes))

    # -- keys --------------------------------------------------------------------------------------------------
    def _read(self, first: Expr, count: Expr) -> None:
        """Values of a chunk and the codes of its keys; rows behind the last one keep values, but have no bits."""
        with self.v.rows(self.v.base(self.batch, self.head, first), count, self.members) as (member, row, source):
            target = let("target", self._at("values", member) + row * self.padded)
            for piece, lanes in self.v.pieces():
                with piece as place:
                    store_vector(self.work, target + place, load(self.v.buffer, source + place, lanes))
        self.by_key.read(self.k.base(self.batch, self.head, first), count, self.members)

    def _add(self, member: Expr, first: Expr, count: Expr) -> None:
        """M += k^T v."""
        values, sums = self._at("values", member), self._at("sums", member)
        later_values, later_codes = (x.base(self.batch, self.head + member, first + CHUNK) for x in (self.v, self.k))
        parts = let("parts", tirx.truncdiv(count + (WORD - 1), index(WORD)))
        self.by_key.gather(member, parts)
        with loop("block", self.blocks) as block, loop("part", parts) as part:
            column, token = let("column", block * COLUMNS), let("token", part * WORD)
            groups = tirx.truncdiv(tirx.min(count - token, index(WORD)) + (BITS - 1), index(BITS))
            with loop("group", groups) as group:
                row = token + group * BITS
                self.k.prefetch(later_codes, row + tirx.bitwise_and(block, index(BITS - 1)), index(0))
                source = let("source", values + row * self.padded + column)
                with loop("piece", COLUMNS // self.lanes) as piece:
                    target = let("target", group * (SUMS * COLUMNS) + piece * self.lanes + self.chosen.start)
                    self._all_sums(source + piece * self.lanes, self.padded, target)
            rows = let("rows", sums + column * (self.groups * BITS))
            with loop("bit", self.bits) as bit:
                self.v.prefetch(later_values, token + tirx.bitwise_and(bit, index(WORD - 1)), column)
                self._sum(self.by_key.word(part, bit), index(self.chosen.start), _TABLES, rows + bit * COLUMNS)

    def _sum(self, word: Expr, table: Expr, tables: int, target: Expr, more: Expr | None = None) -> None:
        """target[16] += an entry of each table, chosen by four bits of a word: two sums, neither waits for the other.
        more: whether there is a sum already."""
        step = SUMS * COLUMNS
        entries = [let("entry", table + group * step + chosen(word, group) * COLUMNS) for group in range(tables)]
        for column in range(0, COLUMNS, self.lanes):
            before = load(self.work, target + column, self.lanes)
            totals = [before if more is None else tirx.Select(more, before, zeros(self.lanes))]
            totals += [load(self.work, entry + column, self.lanes) for entry in entries]
            halves = [let("half", reduce(operator.add, totals[start::2])) for start in (0, 1)]
            store_vector(self.work, target + column, halves[0] + halves[1])

    def _all_sums(self, source: Expr, step: int, target: Expr) -> None:
        """Sums of four rows, `step` elements apart, as a table of 16 rows."""
        rows = [let("value", load(self.work, source + row * step, self.lanes)) for row in range(BITS)]
        sums: list[Expr] = [zeros(self.lanes)]
        for number in range(1, SUMS):
            top = number.bit_length() - 1
            rest = number - (1 << top)
            sums.append(let("sum", sums[rest] + rows[top]) if rest else rows[top])
        for number, total in enumerate(sums):
            store_vector(self.work, target + number * COLUMNS, total)

    # -- queries -----------------------------------------------------------------------------------------------
    def _tabulate(self, member: Expr) -> None:
        """All sums of four rows of M, for 16 columns at a time."""
        sums, tables = self._at("sums", member), self._at("tables", member)
        with loop("group", self.blocks * self.groups) as group, loop("piece", COLUMNS // self.lanes) as piece:
            source, target = sums + group * (BITS * COLUMNS), tables + group * (SUMS * COLUMNS)
            place = let("place", piece * self.lanes)
            self._all_sums(let("source", source + place), COLUMNS, let("target", target + place))

    def _ask(self, first: Expr, count: Expr) -> None:
        """Results of a chunk: sums chosen by the codes into scratch, then whole rows in the order of memory."""
        self.by_query.read(self.q.base(self.batch, self.head, first), count, self.members)
        whole, left = divmod(self.groups, _TABLES)
        with loop("member", self.members) as member:
            values, tables = self._at("values", member), self._at("tables", member)
            with loop("block", self.blocks) as block:
                column = let("column", block * COLUMNS)
                at, table = (member, first, column), let("table", tables + column * (self.groups * SUMS))
                with loop("run", whole) as run:
                    self._look_up(at, table, values + column, (run, _TABLES), count)
                if left:
                    self._look_up(at, table, values + column, (index(whole), left), count)
        codes = self.q.base(self.batch, self.head, first + CHUNK)
        with self.v.rows(self.v.base(self.batch, self.head, first), count, self.members) as (member, row, source):
            self.q.prefetch(codes + member * self.q.across, row, index(0))
            self._finish(let("at", self._at("values", member) + row * self.padded), source, (member, first + row))

    def _look_up(
        self, at: tuple[Expr, Expr, Expr], table: Expr, target: Expr, run: tuple[Expr, int], count: Expr
    ) -> None:
        """One entry for each four bits, of 16 columns, added to each row. at: member, token and column.
        run: its number, and how many tables."""
        fetch, tables = self._later(*at), let("tables", table + run[0] * (_TABLES * SUMS * COLUMNS))
        with loop("row", count) as row:
            fetch(row)
            place = let("place", target + row * self.padded)
            self._sum(self.by_query.word(at[0], row, run[0]), tables, run[1], place, run[0] > 0)

    def _later(self, member: Expr, first: Expr, column: Expr) -> Callable[[Expr], None]:
        """What brings a line of a row of the next chunk's values and results into the caches."""
        head, token = self.head + member, let("token", first + CHUNK)
        values = self.v.base(self.batch, head, token)
        result, shape = self.frame.buffer(self.frame.results[0]), self.anchor.result.shape

        def fetch(row: Expr) -> None:
            self.v.prefetch(values, row, column)
            prefetch(result, self.frame.offset(shape, (self.batch, token + row, head, column)), 1, 2)

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
                store_vector(self.row, place, value)
                if self.anchor.attrs["normalise"]:
                    store_vector(self.fold, 0, fma(value, value, load(self.fold, 0, lanes)))
        share = None
        if self.anchor.attrs["normalise"]:
            total = let("total", lanes_folded(self.fold, self.lanes, operator.add))
            zero, one = _constant(0.0, 1), _constant(1.0, 1)
            share = let("share", tirx.Select(total > zero, one / square_root(total), zero))
        for piece, lanes in self.v.pieces():
            with piece as place:
                value = load(self.row, place, lanes)
                value = value if share is None else value * spread(share, lanes)
                where = (self.batch, token, self.head + member, lanes_at(place, lanes))
                self.frame.write(0, where, self.epilogue.apply(let("value", value), where, self.frame.read))


def _constant(value: float, lanes: int) -> Expr:
    return spread(tirx.FloatImm("float32", value), lanes)
