"""Eight-bit rows times a panel of 64 rows of packed weights: dot products of bytes, group by group, scaled in f32.

A tile of R rows and B blocks of 16 columns keeps R * B * 64 bytes of 32-bit sums in registers: 6 x 4 blocks on AVX-512
(24 vectors; a step of four columns loads 4 vectors of weights, repeats four activations of each of 6 rows over the
lanes, and has 24 dot products). Planes that stay in place have sums of their own, which are shifted at a group's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.shape import BLOCK, PANEL, RUN, DotShape
from nomul.backends.mathlib import fma
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, store, when
from nomul.backends.tir.byte_source import Panel, Source, Sources
from nomul.backends.tir.dot import Dot, is_fused
from nomul.backends.tir.dot_rows import DotRows
from nomul.backends.tir.scratch import Region
from nomul.backends.tir.vectors import lanes_at, load, prefetch, spread

Expr = Any
_AHEAD = 1024 // 4  # elements: how far ahead of their use weights are brought into the second-level cache
_FAR_AHEAD = 16384 // 4  # the same for those that take longer to multiply than to come
_SLOW = 8  # dot products of a vector of packed weights from which on that is so
_AHEAD_ROWS = 4  # more rows take longer than weights from memory that need no unpacking
_MOST_AHEAD = 16384 // 4  # the same where tiles of rows follow each other group by group: a whole group
_IN_PLACE_ROWS = 2


@dataclass(frozen=True)
class Registers:
    """sums: vectors that there is room for.  blocks: vectors of a block of 16 columns.

    is_fused: whether one instruction multiplies and adds, for bytes of any size."""

    sums: int
    blocks: int
    is_fused: bool

    @staticmethod
    def of(target: Target) -> Registers:
        fused = is_fused(target)
        return Registers(24 if target.vector_bytes == 64 else 12 if fused else 8, 64 // target.vector_bytes, fused)

    def heights(self, sums: int) -> tuple[int, ...]:
        """Rows of a full tile, and of those that take the rest: powers of two, the highest first. sums: of a result."""
        full = min(6, self.sums // (self.blocks * sums))
        return (full, *(power for power in (4, 2, 1) if power < full))

    def keeps(self, rows: int, planes: int) -> bool:
        """Whether planes are better left in place: that saves shifts, which more rows would share."""
        return self.is_fused and rows <= _IN_PLACE_ROWS and rows * planes * self.blocks <= self.sums

    def width(self, rows: int, planes: int, blocks: int) -> int:
        """Blocks of 16 columns that a tile takes at once, a divisor of `blocks`."""
        widths = (width for width in range(blocks, 1, -1) if blocks % width == 0)
        return next((width for width in widths if rows * planes * width * self.blocks <= self.sums), 1)


@dataclass(frozen=True)
class Weights:
    """The bytes of a panel. sources: for a tile of so many rows, one for each summand.

    start: (group, term, summand) -> where its bytes begin.  ahead: whether they come from memory."""

    sources: Callable[[int], Sources]
    start: Callable[[Expr, Expr, Expr], Expr]
    ahead: bool


@dataclass(frozen=True)
class Scaling:
    """scale: (group, scale number, column) -> f32 lanes.  zero: (group, column) -> int32 lanes, or None."""

    scale: Callable[[Expr, Expr, Expr], Expr]
    zero: Callable[[Expr, Expr], Expr] | None


class DotTile:
    """Make it outside of loops: it owns the sums. totals: f32 [rows, 64].  counts: row counts that can occur."""

    def __init__(
        self, shape: DotShape, target: Target, totals: Region, scaling: Scaling, counts: Sequence[int]
    ) -> None:
        self.shape, self._totals, self.scaling = shape, totals, scaling
        self.dot = Dot(target, shape.codes.is_wide)
        self.registers = Registers.of(target)
        self.lanes = self.dot.lanes
        full, *rest = self.registers.heights(self.sums_each)
        self._full = min(full, max(counts))
        self._rest = [power for power in rest if any(count % self._full & power for count in counts)]
        self._sums = local("dot_sums", "int32", self.registers.sums * self.lanes)
        self.ahead: Expr = index(_AHEAD)

    @property
    def sums_each(self) -> int:
        """Of a result, where no plane stays in place."""
        return 1

    @property
    def needs_sums(self) -> bool:
        """Whether the sums of rows by group are asked for."""
        codes = self.shape.codes
        return codes.ones or codes.offset is None or self.offset != 0

    @property
    def _is_single(self) -> bool:
        """Whether there is one sum for each result."""
        return self.shape.groups * self.shape.codes.scales == 1

    @property
    def offset(self) -> int:
        """What is left to subtract of each weight: some instructions subtract a part."""
        assert self.shape.codes.offset is not None
        factors = sum(summand.factor for summand in self.shape.codes.summands)
        return self.shape.codes.offset - factors * self.dot.bias

    # -- rows ----------------------------------------------------------------------------------------------------
    def emit(self, weights: Weights, rows: DotRows, count: Expr) -> None:
        """Sums of `count` rows into the totals."""
        if not self._is_single:
            self._clear(count)
        self.ahead = self._distance(count)
        with loop("group", self.shape.groups) as group:
            if self.shape.codes.ones:
                self._add_ones(rows, count, group)
            with loop("term", self.shape.codes.terms) as term:
                chunks = let("chunks", tirx.truncdiv(count, index(self._full)))
                with loop("chunk", chunks) as chunk:
                    self.passes(self._full, weights, rows, let("row", chunk * self._full), (group, term))
                done = let("done", chunks * self._full)
                left = let("left", count - done)
                for height in self._rest:
                    with when(tirx.bitwise_and(left, index(height)) != 0):
                        row = let("row", done + tirx.bitwise_and(left, index(-2 * height)))
                        self.passes(height, weights, rows, row, (group, term))

    def _distance(self, count: Expr) -> Expr:
        """Elements from those that are used to those that are prefetched. While the second tile of rows goes through a
        group, and all behind it, the next group comes from memory; one tile by itself has nothing to wait for."""
        stride = self.stream_stride
        if stride > _MOST_AHEAD:
            return index(_AHEAD)
        return let("ahead", tirx.Select(count > self._full, index(max(stride, _AHEAD)), index(_AHEAD)))

    @property
    def stream_stride(self) -> int:
        """Elements of a group's term."""
        return self.shape.term_stride

    def _clear(self, count: Expr) -> None:
        with loop("vector", count * (PANEL // self.lanes)) as vector:
            zero = spread(tirx.FloatImm("float32", 0.0), self.lanes)
            store(self._totals.buffer, lanes_at(vector * self.lanes + self._totals.start, self.lanes), zero)

    def _add_ones(self, rows: DotRows, count: Expr, group: Expr) -> None:
        """The term of ones, whose products are the sums of the rows."""
        number = index(self.shape.codes.terms)
        with loop("row", count) as row:
            total = spread(let("ones", tirx.Cast("float32", rows.sum(row, group))), self.lanes)
            for column in range(0, PANEL, self.lanes):
                scale = self.scaling.scale(group, number, index(column))
                self._add_total(let("place", row * PANEL + column), total, scale)

    def _add_total(self, place: Expr, total: Expr, scale: Expr) -> None:
        at = lanes_at(self._totals.start + place, self.lanes)
        buffer = self._totals.buffer
        store(buffer, at, total * scale if self._is_single else fma(total, scale, tirx.BufferLoad(buffer, [at])))

    # -- one tile ------------------------------------------------------------------------------------------------
    def passes(self, height: int, weights: Weights, rows: DotRows, row: Expr, part: tuple[Expr, Expr]) -> None:
        """The product of `height` rows from `row` on with one term of a group."""
        planes = max(len(source.shifts) for source in weights.sources(height))
        blocks = self.registers.width(height, planes, self.shape.blocks)
        with loop("pass", self.shape.blocks // blocks) as number:
            column = let("column", number * (blocks * BLOCK))
            tile = _Tile(self, weights, height, blocks * self.registers.blocks, part, column)
            tile.emit(rows, row)

    def place(self, number: int) -> Expr:
        return lanes_at(number * self.lanes, self.lanes)

    def load_sum(self, number: int) -> Expr:
        return tirx.BufferLoad(self._sums, [self.place(number)])

    def store_sum(self, number: int, value: Expr) -> None:
        store(self._sums, self.place(number), value)

    def start(self, rows: DotRows, row: Expr, group: Expr, column: Expr) -> Callable[[int], Expr]:
        """What the sum of a row begins with, for vector number v of the tile."""
        if self.scaling.zero is not None:
            total = spread(let("row_sum", rows.sum(row, group)), self.lanes)
            bias = spread(tirx.const(self.dot.bias, "int32"), self.lanes)
            zero = self.scaling.zero
            return lambda v: (bias - zero(group, column + v * self.lanes)) * total
        if not self.offset:
            return lambda v: spread(tirx.const(0, "int32"), self.lanes)
        first = let("first", rows.sum(row, group) * tirx.const(-self.offset, "int32"))
        return lambda v: spread(first, self.lanes)

    def finish(self, row: Expr, part: tuple[Expr, Expr], column: Expr, sums: Sequence[Sequence[Expr]]) -> None:
        """Scale the sums [rows, vectors] and add them to the totals."""
        group, term = part
        for v in range(len(sums[0])):
            scale = let("scale", self.scaling.scale(group, term, column + v * self.lanes))
            for r, vectors in enumerate(sums):
                total = tirx.Cast(f"float32x{self.lanes}", vectors[v])
                self._add_total((row + r) * PANEL + column + v * self.lanes, total, scale)


@dataclass(frozen=True)
class _Tile:
    """height: rows.  vectors: of columns, from `column` on.  part: group and term."""

    owner: DotTile
    weights: Weights
    height: int
    vectors: int
    part: tuple[Expr, Expr]
    column: Expr

    def emit(self, rows: DotRows, row: Expr) -> None:
        group, _ = self.part
        stride = rows.rows.stride
        first = let("first", rows.rows.start + row * stride + group * self.owner.shape.padded)
        starts = [let("q", first + r * stride) for r in range(self.height)]
        begin = [self.owner.start(rows, row + r, group, self.column) for r in range(self.height)]
        self._clear(begin)
        sources = self.weights.sources(self.height)
        for first, end in self._runs(sources):
            with loop("summand", end - first, first) if end - first > 1 else nullcontext(index(first)) as number:
                self._sum(sources[first], number, rows.rows.buffer, starts)
            self._scale(end, begin)
        self.owner.finish(row, self.part, self.column, self._finished(sources))

    def _runs(self, sources: Sources) -> Iterator[tuple[int, int]]:
        """Summands [first, end) that one loop serves: bytes of one plane, multiplied by the same factor."""
        summands = self.owner.shape.codes.summands
        keys = [
            (summand.factor, isinstance(source, Panel) or number)
            for number, (source, summand) in enumerate(zip(sources, summands, strict=True))
        ]
        for _, run in groupby(range(len(keys)), key=lambda number: keys[number]):
            numbers = list(run)
            yield numbers[0], numbers[-1] + 1

    def _number(self, plane: int, row: int, vector: int) -> int:
        return (plane * self.height + row) * self.vectors + vector

    def _each(self) -> Iterator[tuple[int, int]]:
        yield from ((r, v) for r in range(self.height) for v in range(self.vectors))

    @property
    def _is_scaled(self) -> bool:
        return len({summand.factor for summand in self.owner.shape.codes.summands}) > 1

    def _clear(self, begin: Sequence[Callable[[int], Expr]]) -> None:
        zero = spread(tirx.const(0, "int32"), self.owner.lanes)
        for r, v in self._each():
            for plane in range(max(len(source.shifts) for source in self.weights.sources(self.height))):
                value = zero if plane or self._is_scaled else begin[r](v)
                self.owner.store_sum(self._number(plane, r, v), value)

    def _sum(self, source: Source, number: Expr, q: Any, starts: Sequence[Expr]) -> None:
        """All products of one summand."""
        owner, distance = self.owner, self._distance(source)
        start = let("weights_start", self.weights.start(*self.part, number) + self.column)
        source, place = source.opened(start, self.vectors)
        with loop("unit", owner.shape.padded // source.columns) as unit:
            unit_start = let("unit_start", place + unit * source.stride)
            if distance is not None:
                prefetch_ahead(source, unit_start, self.vectors * owner.lanes, distance)
            reader = source.reader(unit_start)
            for piece in range(source.columns // RUN):
                offset = let("offset", unit * source.columns + piece * RUN)
                plane = piece % len(source.shifts)
                ready = cache(lambda v, piece=piece: owner.dot.weights(reader.piece(piece, v)))
                activations = cache(lambda r, offset=offset: _repeated(q, starts[r] + offset, owner.lanes))
                for r, v in self._order(source):
                    at = self._number(plane, r, v)
                    owner.store_sum(at, owner.dot.add(owner.load_sum(at), ready(v), activations(r)))

    def _order(self, source: Source) -> Iterator[tuple[int, int]]:
        """Row by row, so that no more than the weights, which are fewer, and one row's activations are in registers
        beside the sums; packed numbers vector by vector, since their other planes wait in registers."""
        if isinstance(source, Panel):
            yield from self._each()
        else:
            yield from ((r, v) for v in range(self.vectors) for r in range(self.height))

    def _distance(self, source: Source) -> Expr:
        """How many elements ahead weights are prefetched, or None."""
        if not self.weights.ahead or (self.height > _AHEAD_ROWS and isinstance(source, Panel)):
            return None
        dots = self.height * (source.columns // RUN) // (source.stride // PANEL)
        return index(_FAR_AHEAD) if dots >= _SLOW else self.owner.ahead

    def _scale(self, end: int, begin: Sequence[Callable[[int], Expr]]) -> None:
        """Before summand `end`: where its factor is lower, multiply the sums by a power of two, and put what they begin
        with behind. Integers that wrapped come right again."""
        summands = self.owner.shape.codes.summands
        factor = summands[end - 1].factor // summands[end].factor if end < len(summands) else 1
        if factor == 1:
            return
        kind = f"uint32x{self.owner.lanes}"
        by = spread(tirx.const(factor.bit_length() - 1, "uint32"), self.owner.lanes)
        for r, v in self._each():
            number = self._number(0, r, v)
            high = tirx.shift_left(tirx.reinterpret(kind, self.owner.load_sum(number)), by)
            total = high + tirx.reinterpret(kind, begin[r](v))
            self.owner.store_sum(number, tirx.reinterpret(f"int32x{self.owner.lanes}", total))

    def _finished(self, sources: Sources) -> list[list[Expr]]:
        """Sums of all planes, [rows, vectors]."""
        (shifts,) = {source.shifts for source in sources}
        result: list[list[Expr]] = [[] for _ in range(self.height)]
        for r, v in self._each():
            total = self.owner.load_sum(self._number(0, r, v))
            for plane, shift in enumerate(shifts[1:], 1):
                by = spread(tirx.const(shift, "int32"), self.owner.lanes)
                total = total + tirx.shift_right(self.owner.load_sum(self._number(plane, r, v)), by)
            result[r].append(let("sum", total))
        return result


def prefetch_ahead(source: Source, start: Expr, used: int, distance: Expr) -> None:
    """For `used` elements of each vector of a unit that begins at `start`, those that come so many elements later."""
    ahead = let("ahead", start + distance)
    for first in range(0, source.stride, PANEL):
        prefetch(source.buffer, ahead + first, used, cache=2)


def _repeated(q: Any, place: Expr, lanes: int) -> Expr:
    """Four activations in every lane."""
    return let("activations", tirx.Broadcast(let("four", tirx.reinterpret("int32", load(q, place, RUN))), lanes))
