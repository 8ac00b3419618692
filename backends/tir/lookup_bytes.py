"""Look-ups in tables of 8-bit sums, for activations of few levels: twice the sums an instruction, for many rows.

Indices of trits have a sign, their highest bit; the other four look up one of 16 sums. Four tables of 16 bytes are one
register. The bytes of a 32-bit lane are indices of one row of weights in each of the four; two bits of a byte say in
which. So for 16 rows of weights, four indices and one row of activations:

    1 vpermb      four sums of 8 bits for each lane, plus 128
    1 vpdpbusd    by their signs, 1 or -1: added in 32 bits

What the 128 adds up to depends on the signs alone: sums begin with its negative. Indices and signs are unpacked once
for all rows of a block, by vpmultishiftqb (an index to each byte) and a few instructions of bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from nomul.backends.layouts.lut32 import BLOCKS, HALF, INDICES, ROWS, TILE, WORDS, Order, entries
from nomul.backends.target import Target
from nomul.backends.tir.body import let, local, loop, store
from nomul.backends.tir.lookup import Sink
from nomul.backends.tir.lookup_indices import Chunk
from nomul.backends.tir.lookup_tables import BiasedRow, Sums
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, load, prefetch, spread, store_vector

Expr = Any
USES = ("avx512vbmi", "avx512vnni")  # features that kernels made of this look at
LANES = 16
_SLOTS = 4  # tables side by side
_STEP_BYTES = _SLOTS * HALF
_BIAS = 128  # of sums in tables
_WORD = TILE // 2  # elements of 32 bits that a word of all rows takes
_SKEW = 33 * 64  # bytes between rows, so that equal places of rows are in different sets of the cache
_HEIGHT, _VECTORS = 4, 4  # of a register tile: rows of activations, vectors of 16 columns
# The indices of a step, by their number in a unit: those that stand alike in pairs of words.
_STEPS = ((0, 1, 2, 3), (6, 7, 8, 9), (12, 13, 14, 15), (4, 5, 10, 11))
_ALIKE, _REST = (0, 5, 10, 16), (0, 5, 16, 21)  # where in a lane of two words
_PAIR_REST = 21  # bits of a lane that hold indices 0 to 3


def fits(target: Target, order: Order, levels: int) -> bool:
    """Whether all sums fit bytes, and there are the instructions."""
    most = levels * int(abs(entries(order.columns)).sum(axis=1).max())
    return most < _BIAS and target.vector_bytes == 64 and set(USES) <= target.features


def steps_of(indices: int) -> list[int]:
    """The steps that a unit with its first `indices` indices has, as numbers in `_STEPS`."""
    return [number for number, step in enumerate(_STEPS) if step[0] < indices]


class ByteTables:
    """Tables of `rows` rows: [group, unit, step, 4 tables, 16 bytes]."""

    def __init__(self, order: Order, rows: int, scratch: Scratch) -> None:
        self._order = order
        self._group = (order.units * len(_STEPS) + len(steps_of(order.tail))) * _STEP_BYTES
        self._stride = order.groups * self._group + _SKEW
        region = scratch.region("int8", rows * self._stride)
        self.buffer, self._start = region.buffer, region.start

    def place(self, row: Expr, group: Expr, unit: Expr) -> Expr:
        return row * self._stride + group * self._group + unit * (len(_STEPS) * _STEP_BYTES) + self._start

    def fill(self, sums: Sums, row: Expr) -> None:
        """Make the tables of the row that `sums` reads, as those of row number `row`."""
        order = self._order
        with loop("group", order.groups) as group:
            first = let("first", group * order.indices)
            with loop("unit", order.units) as unit:
                place = let("tables", self.place(row, group, unit))
                self._unit(sums, place, let("unit_index", first + unit * INDICES), INDICES)
            if order.tail:
                place = let("tables", self.place(row, group, order.units))
                self._unit(sums, place, let("unit_index", first + order.units * INDICES), order.tail)

    def _unit(self, sums: Sums, place: Expr, first: Expr, count: int) -> None:
        nothing = spread(tirx.IntImm("int32", 0), HALF)
        for position, step in enumerate(steps_of(count)):
            tables = [sums.halves(first + number)[0] if number < count else nothing for number in _STEPS[step]]
            for pair in (0, 2):
                target = place + position * _STEP_BYTES + pair * HALF
                store_vector(self.buffer, target, _low_bytes(tables[pair], tables[pair + 1]))


class ByteTile:
    """Make it outside of loops: it owns the accumulators. data: the tiles, as int32: pairs of rows' words."""

    dtype = "int32"

    def __init__(self, order: Order, data: Any, tables: ByteTables, row: BiasedRow, sums: Sums) -> None:
        self._order, self._data, self._tables, self._row, self._sums = order, data, tables, row, sums
        self._totals = local("byte_sums", "int32", _HEIGHT * _VECTORS * LANES)
        self._spare = local("byte_spare", "int32", LANES)
        self._starts = local("byte_starts", "int32", 2 * LANES)

    def panel_size(self, units: int, tail: int) -> int:
        """Elements that the unpacked indices of a tile take."""
        return (1 + 2 * (units * len(_STEPS) + len(steps_of(tail)))) * TILE

    def prepare(self, rows: Any, row: Expr) -> None:
        """Make the tables of a row."""
        self._row.fill(rows, row)
        self._tables.fill(self._sums, row)

    # -- indices -----------------------------------------------------------------------------------------------
    def unpack(self, tile: Expr, chunk: Chunk, panel: Any, start: Expr) -> None:
        """Of a tile: what sums begin with, then [step, 2, 128] lanes of four indices, and of four signs."""
        with loop("inner_block", BLOCKS) as number:
            inside = tirx.shift_right(chunk.words, _one()) + number * LANES
            base = let("base", tile * (self._order.group_bytes // 4) + inside)
            first = let("panel_block", start + number * ROWS)
            for part in (0, 1):
                store(self._starts, self._place(part), self._spread(0))
            with loop("unit", chunk.units) as unit:
                words = let("unit_words", base + unit * (WORDS * _WORD))
                self._unpack_unit(words, panel, first + _steps(unit), WORDS, INDICES, chunk.ahead)
            if chunk.tail:
                words = let("unit_words", base + chunk.units * (WORDS * _WORD))
                tail = first + _steps(chunk.units)
                self._unpack_unit(words, panel, tail, self._order.tail_words, chunk.tail, chunk.ahead)
            for part in (0, 1):
                total = tirx.BufferLoad(self._starts, [self._place(part)])
                store_vector(panel, first + part * LANES, self._spread(0) - total)

    def _unpack_unit(self, words: Expr, panel: Any, target: Expr, count: int, indices: int, ahead: Expr) -> None:
        for word in range(count):
            prefetch(self._data, words + word * _WORD + tirx.shift_right(ahead, _one()), LANES, cache=2)
        vectors = [let("words", load(self._data, words + word * _WORD, LANES)) for word in range(count)]
        zero, target = self._spread(0), let("unit_panel", target + TILE)
        spare = self._spare_word(vectors) if indices == INDICES else zero
        padded = [*vectors, *[zero] * (WORDS - count), spare]
        for half in (0, 1):
            pairs = [self._pair(padded[first], padded[first + 1], half) for first in range(0, WORDS + 1, 2)]
            for position, step in enumerate(steps_of(indices)):
                place, four = target + position * 2 * TILE + half * LANES, self._step(pairs, step)
                tables = tirx.bitwise_or(tirx.bitwise_and(four, self._spread(0x0F0F0F0F)), self._spread(0x30201000))
                store_vector(panel, place, tables)
                signs = let("signs", self._signs(four))
                store_vector(panel, place + TILE, tirx.reinterpret("int32x16", signs))
                biases = tirx.reinterpret("int8x64", self._spread(-0x7F7F7F80))
                self._dot(self._starts, self._place(half), biases, signs)

    def _signs(self, four: Expr) -> Expr:
        """int8x64: -1 where the sign of an index is set, else 1."""
        bits = tirx.bitwise_and(tirx.shift_right(four, self._spread(3)), self._spread(0x02020202))
        one = spread(tirx.const(1, "int8"), 4 * LANES)
        return one - tirx.reinterpret("int8x64", bits)

    def _spare_word(self, words: Sequence[Expr]) -> Expr:
        """The sixteenth index of each row."""
        store(self._spare, lanes_at(0, LANES), spread(tirx.IntImm("int32", 0), LANES))
        for word in words:
            before = tirx.reinterpret("uint16x32", load(self._spare, 0, LANES))
            one = spread(tirx.const(1, "uint16"), 2 * LANES)
            args = (before, tirx.reinterpret("uint16x32", word), one)
            joined = tirx.call_llvm_pure_intrin("uint16x32", "llvm.fshl", *args)
            store(self._spare, lanes_at(0, LANES), tirx.reinterpret("int32x16", joined))
        return load(self._spare, 0, LANES)

    def _pair(self, first: Expr, second: Expr, half: int) -> Expr:
        """Two words of each row of a half block as one lane: even words are those of the first half."""
        low, high = self._spread(0xFFFF), self._spread(-0x10000)
        if half == 0:
            parts = (tirx.bitwise_and(first, low), tirx.shift_left(second, self._spread(16)))
        else:
            unsigned = tirx.reinterpret("uint32x16", first)
            shifted = tirx.shift_right(unsigned, spread(tirx.const(16, "uint32"), LANES))
            parts = (tirx.reinterpret("int32x16", shifted), tirx.bitwise_and(second, high))
        return let("pair", tirx.bitwise_or(*parts))

    def _step(self, pairs: Sequence[Expr], step: int) -> Expr:
        """Four indices of each row, below bits of others."""
        if step < len(pairs):
            return let("four", self._placed(pairs[step], _ALIKE))
        first, second = (tirx.shift_right(pair, self._spread(_PAIR_REST)) for pair in pairs[:2])
        both = tirx.bitwise_or(tirx.bitwise_and(first, self._spread(0x3FF)), tirx.shift_left(second, self._spread(16)))
        return let("four", self._placed(let("rest", both), _REST))

    def _placed(self, lanes: Expr, places: Sequence[int]) -> Expr:
        """The bits from four places of each lane on as its bytes."""
        control = sum((place + 32 * odd) << 8 * (4 * odd + byte) for odd in (0, 1) for byte, place in enumerate(places))
        controls = tirx.reinterpret("int8x64", spread(tirx.IntImm("int64", control), LANES // 2))
        data = tirx.reinterpret("int8x64", lanes)
        name = "llvm.x86.avx512.pmultishift.qb.512"
        return tirx.reinterpret("int32x16", tirx.call_llvm_pure_intrin("int8x64", name, controls, data))

    @staticmethod
    def _spread(value: int) -> Expr:
        return spread(tirx.IntImm("int32", value), LANES)

    # -- products ----------------------------------------------------------------------------------------------
    def multiply(self, height: int, row: Expr, panel: Any, start: Expr, chunk: Chunk, sink: Sink) -> None:
        """`height` rows times the columns of a tile whose indices are unpacked."""
        tables = [let("tables", self._tables.place(row + r, chunk.group, chunk.unit)) for r in range(height)]
        steps = chunk.units * len(_STEPS) + len(steps_of(chunk.tail))
        with loop("part", TILE // (_VECTORS * LANES)) as part:
            column = let("column", part * (_VECTORS * LANES))
            for number in range(height * _VECTORS):
                begin = load(panel, start + column + number % _VECTORS * LANES, LANES)
                store(self._totals, self._place(number), begin)
            with loop("step", steps) as step:
                self._add(tables, panel, let("panel_step", start + column + TILE + step * (2 * TILE)), step)
            for number in range(height * _VECTORS):
                total = tirx.BufferLoad(self._totals, [self._place(number)])
                sink(row + number // _VECTORS, column + number % _VECTORS * LANES, total)

    def _add(self, tables: Sequence[Expr], panel: Any, place: Expr, step: Expr) -> None:
        def vectors(first: Expr) -> list[Expr]:
            lanes = [load(panel, first + v * LANES, LANES) for v in range(_VECTORS)]
            return [let("four", tirx.reinterpret("int8x64", four)) for four in lanes]

        indices, signs = vectors(place), vectors(place + TILE)
        for r, table in enumerate(tables):
            sums = let("table", load(self._tables.buffer, table + step * _STEP_BYTES, _STEP_BYTES))
            for v in range(_VECTORS):
                name = "llvm.x86.avx512.permvar.qi.512"
                found = let("found", tirx.call_llvm_pure_intrin("int8x64", name, sums, indices[v]))
                self._dot(self._totals, self._place(r * _VECTORS + v), found, signs[v])

    @staticmethod
    def _dot(totals: Any, at: Expr, unsigned: Expr, signed: Expr) -> None:
        total, name = tirx.BufferLoad(totals, [at]), "llvm.x86.avx512.vpdpbusd.512"
        store(totals, at, tirx.call_llvm_pure_intrin("int32x16", name, total, unsigned, signed))

    @staticmethod
    def _place(number: int) -> Expr:
        return lanes_at(number * LANES, LANES)


def _steps(units: Expr) -> Expr:
    """Elements of a panel that the steps of so many units take."""
    return units * (2 * len(_STEPS) * TILE)


def _low_bytes(first: Expr, second: Expr) -> Expr:
    """int8x32: the lowest bytes of int32 lanes, plus the bias."""
    bias = spread(tirx.IntImm("int32", _BIAS), HALF)
    vectors = [tirx.reinterpret("int8x64", vector + bias) for vector in (first, second)]
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", 4 * lane) for lane in range(2 * HALF)])


def _one() -> Expr:
    return tirx.IntImm("int64", 1)
