"""Tables of sums of activations, one for each index of a row (`backends/layouts/lut32.py`), made in scratch.

Entry e of a table is the sum of the row's activations at the columns of the index, each times its weight in what e
means. Sums are 16-bit integers. Where one instruction looks up words (AVX-512 BW), a table is 32 words; elsewhere
it is four times 16 bytes, low and high halves of entries 0 to 15, then those of entries 16 to 31.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.layouts.lut32 import ENTRIES, Order
from nomul.backends.target import Target
from nomul.backends.tir.body import let, local, loop, store
from nomul.backends.tir.dot import Dot, Weights
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.lookup_word import has_word_tables
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import load, spread, store_vector

Expr = Any
HALF = ENTRIES // 2
_SKEW = 32 * 33  # 16-bit elements between rows, so that equal places of rows are in different sets of the cache
_BIAS = -128  # added to activations so that they are bytes without a sign


class BiasedRow:
    """One row of activations plus 128 as bytes, each group padded to whole indices.

    totals: takes the sums of groups, where they are needed."""

    def __init__(self, order: Order, scratch: Scratch, totals: GroupTotals | None) -> None:
        self._order, self._totals = order, totals
        self._stride = order.indices * order.columns
        self.region = scratch.region("uint8", order.groups * self._stride + 4)

    def fill(self, rows: Rows, row: Expr) -> None:
        """Copy row number `row`."""
        if self._totals is not None:
            self._totals.fill(rows, row)
        order, buffer = self._order, self.region.buffer
        start = let("q_start", rows.start + row * rows.stride)
        zero = tirx.const(-_BIAS, "uint8")
        with loop("group", order.groups) as group:
            source = let("source", start + group * order.group_columns)
            target = let("target", group * self._stride + self.region.start)
            with loop("column", order.group_columns) as column:
                q = tirx.reinterpret("uint8", rows.buffer[source + column])
                store(buffer, target + column, tirx.bitwise_xor(q, zero))
            for column in range(order.group_columns, self._stride):
                store(buffer, target + column, zero)

    def dword(self, place: Expr) -> Expr:
        """int32: four bytes from a place on."""
        return tirx.reinterpret("int32", load(self.region.buffer, self.region.start + place, 4))


class GroupTotals:
    """The sums of all activations of each group of `rows` rows, int32. Make it outside of loops."""

    def __init__(self, order: Order, rows: int, scratch: Scratch) -> None:
        self._order = order
        self._region = scratch.region("int32", rows * order.groups)
        self._total = local("group_total", "int32", 1)

    def fill(self, rows: Rows, row: Expr) -> None:
        """Those of row number `row`."""
        order, total = self._order, self._total
        with loop("group", order.groups) as group:
            source = let("source", rows.start + row * rows.stride + group * order.group_columns)
            store(total, 0, tirx.IntImm("int32", 0))
            with loop("column", order.group_columns) as column:
                store(total, 0, total[0] + tirx.Cast("int32", rows.buffer[source + column]))
            store(self._region.buffer, self._place(row, group), total[0])

    def load(self, row: Expr, group: Expr) -> Expr:
        return self._region.buffer[self._place(row, group)]

    def _place(self, row: Expr, group: Expr) -> Expr:
        return row * self._order.groups + group + self._region.start


class Sums:
    """Sums of activations for all entries of one index, int32, in vectors of the machine.

    Make it outside of loops. entries: i8 [dwords, 32, 4], the weights that entries mean, as int32."""

    def __init__(self, target: Target, order: Order, row: BiasedRow, entries: Any) -> None:
        self._dot = Dot(target, wide=False)
        self._row, self._columns, self._entries = row, order.columns, entries
        self._dwords = -(-order.columns // 4)
        self._starts = [self._start(first) for first in range(0, ENTRIES, self._dot.lanes)]

    def _start(self, first: int) -> Expr:
        """What takes the bias of the activations out of the sums."""
        total = spread(tirx.IntImm("int32", 0), self._dot.lanes)
        ones = self._dot.ones()
        for dword in range(self._dwords):
            total = let("entry_sum", self._dot.add(total, ones, self._weights(dword, first)))
        return let("unbiased", total * spread(tirx.IntImm("int32", _BIAS), self._dot.lanes))

    def _weights(self, dword: int, first: int) -> Expr:
        return load(self._entries, dword * ENTRIES + first, self._dot.lanes)

    def halves(self, index: Expr) -> list[Expr]:
        """int32x16 of entries 0 to 15, and of those behind, of an index of the row (counted over all groups)."""
        place = let("place", index * self._columns)
        lanes = self._dot.lanes
        spreads = [spread(let("q", self._row.dword(place + 4 * d)), lanes) for d in range(self._dwords)]
        activations = [Weights(let("q_bytes", tirx.reinterpret(f"int8x{4 * lanes}", q))) for q in spreads]
        totals = []
        for number, total in enumerate(self._starts):
            for dword, q in enumerate(activations):
                total = let("total", self._dot.add(total, q, self._weights(dword, number * lanes)))
            totals.append(total)
        each = len(totals) // 2
        return [_joined(totals[:each]), _joined(totals[each:])]


def _joined(parts: list[Expr]) -> Expr:
    if len(parts) == 1:
        return parts[0]
    return let("joined", tirx.Shuffle(parts, [tirx.IntImm("int32", lane) for lane in range(HALF)]))


class WordTables:
    """Tables of 16-bit sums for `rows` rows. place(row, index): where one begins, in 16-bit elements of `buffer`."""

    def __init__(self, target: Target, order: Order, rows: int, scratch: Scratch) -> None:
        self._count = order.groups * order.indices
        self._stride = self.row_bytes(order) // 2
        self._joined = has_word_tables(target)
        region = scratch.region("int16", rows * self._stride)
        self.buffer, self._start = region.buffer, region.start

    @staticmethod
    def row_bytes(order: Order) -> int:
        """Of the tables of a row."""
        return 2 * (order.groups * order.indices * ENTRIES + _SKEW)

    def place(self, row: Expr, index: Expr) -> Expr:
        return row * self._stride + index * ENTRIES + self._start

    def fill(self, sums: Sums, row: Expr) -> None:
        """Make the tables of the row that `sums` reads, as those of row number `row`."""
        first = let("first", self.place(row, 0))
        with loop("index", self._count) as number:
            place, halves = let("table", first + number * ENTRIES), sums.halves(number)
            if self._joined:
                store_vector(self.buffer, place, _low_words(*halves))
            else:
                self._store_bytes(place, halves)

    def _store_bytes(self, place: Expr, halves: list[Expr]) -> None:
        eight = spread(tirx.IntImm("int32", 8), HALF)
        for number, half in enumerate(halves):
            for part, value in enumerate((half, tirx.shift_right(half, eight))):
                packed = tirx.reinterpret(f"int16x{HALF // 2}", tirx.Cast(f"int8x{HALF}", value))
                store_vector(self.buffer, place + (number * 2 + part) * (HALF // 2), packed)


def _low_words(low: Expr, high: Expr) -> Expr:
    """int16x32: the lower halves of int32 lanes."""
    words = [tirx.reinterpret(f"int16x{ENTRIES}", half) for half in (low, high)]
    return tirx.Shuffle(words, [tirx.IntImm("int32", 2 * lane) for lane in range(ENTRIES)])
