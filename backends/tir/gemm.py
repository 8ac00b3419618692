"""The f32 inner kernel: a block of rows of A times one weight panel, summed in registers (explicit multiply-adds).

A tile of R rows and C columns holds R * C / lanes sums. One step of the reduction loads C / lanes vectors of the panel
and one element of each row, repeated over the lanes: R * C / lanes multiply-adds for C / lanes + R loads, so 8 x 32 on
AVX-512 takes 10 loads for 16 multiply-adds and runs at the multiply-add peak (benchmarks/gemm.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import tirx

from nomul.backends.mathlib import fma
from nomul.backends.tir.body import index, let, local, loop, store, when
from nomul.backends.tir.operand import Rows, elements_of, steps_together
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.vectors import lanes_at, load, prefetch, spread

Expr = Any
PREFETCH_STEPS = 16  # how far ahead in the panel; beyond 1,024 steps the sums are up to 15 % faster for it
PREFETCH_HEIGHT = 4  # lower tiles run at memory speed, and prefetches only cost them
# (row of the block, first column in the panel, sums) for one vector of finished sums
Sink = Callable[[Expr, Expr, Expr], None]
Ahead = Callable[[Expr, Expr], None]  # (first row of a tile, step of the reduction)


@dataclass(frozen=True)
class Reduction:
    """The places of A that one sum runs over: loops around a run of `inner` contiguous elements.

    outer: (extent, stride in A) of each loop, outermost first.  The panel's rows are in that order, without gaps."""

    inner: Expr | int
    outer: tuple[tuple[Expr | int, Expr | int], ...] = ()


@dataclass(frozen=True)
class Panel:
    """A weight panel [K, 32]: element c of row k is `buffer[start + k * 32 + c]`. decode: stored vector -> f32."""

    buffer: Any
    start: Expr
    decode: Callable[[Expr], Expr] = field(default=lambda raw: raw)


@dataclass(frozen=True)
class Product:
    """What a block computes: rows of A times a panel; each finished vector of sums goes to `sink`.

    ahead: what every step brings into the caches, in place of the panel's rows to come."""

    rows: Rows
    panel: Panel
    over: Reduction
    sink: Sink
    ahead: Ahead | None = None


class InnerKernel:
    """Emits products of rows with one panel. Make it outside of loops: it owns the registers' names.

    counts: all row counts that can occur; there is one body of code per tile height that covers them.
    padded: fewer than MOST_SLACK rows behind the last one may be read; sums of such rows never reach the sink.
    zero: what sums begin with; opaque where a sum may have no step, or LLVM calls memset."""

    def __init__(
        self, tile: RegisterTile, counts: Iterable[int], *, padded: bool = False, zero: Expr | None = None
    ) -> None:
        self.tile = tile
        self.zero = tirx.FloatImm("float32", 0.0) if zero is None else zero
        self.counts = list(counts)
        self.cover = tile.cover(self.counts, padded=padded)
        sizes = [height * sum(tile.vectors(height)) * tile.unroll(height) for height in self.cover.heights]
        self._sums = local("sums", "float32", max(sizes))

    def block(self, count: Expr | int, columns: Expr | int, product: Product) -> None:
        """Products of `count` rows with the first `columns` columns of the panel (rounded up to whole passes)."""
        count, full = index(count), self.cover.full
        if self.cover.rounding == full:
            self._round_up(index(0), count, columns, product)
            return
        chunks = let("chunks", tirx.truncdiv(count, index(full)))
        with loop("chunk", chunks) as chunk:
            self._passes(full, let("row", chunk * full), columns, product)
        done = let("done", chunks * full)
        if self.cover.rounding:
            self._round_up(done, count, columns, product)
        left = let("left", count - done)
        for height in self.cover.rest:  # the bits of `left`
            with when(tirx.bitwise_and(left, index(height)) != 0):
                row = let("row", done + tirx.bitwise_and(left, index(-2 * height)))
                self._passes(height, row, columns, product)

    def _round_up(self, done: Expr, count: Expr, columns: Expr | int, product: Product) -> None:
        """Rows [done, count), and those that fill the last tile."""
        height = self.cover.rounding

        def inside(row: Expr, column: Expr, sums: Expr) -> None:
            with when(row < count):
                product.sink(row, column, sums)

        exact = all(number % height == 0 for number in self.counts)
        guarded = product if exact else replace(product, sink=inside)
        with loop("chunk", tirx.truncdiv(count - done + (height - 1), index(height))) as chunk:
            self._passes(height, let("row", done + chunk * height), columns, guarded)

    def _passes(self, height: int, row: Expr, columns: Expr | int, product: Product) -> None:
        """The panel in passes of as many columns as the registers take."""
        width = sum(self.tile.vectors(height))
        if self.tile.covers or width == PANEL:
            self._tile(height, row, index(0), product)
            return
        with loop("pass", tirx.truncdiv(index(columns) + (width - 1), index(width))) as number:
            self._tile(height, row, let("column", number * width), product)

    def _tile(self, height: int, row: Expr, column: Expr, product: Product) -> None:
        unroll, rows, panel = self.tile.unroll(height), product.rows, product.panel
        vectors = list(_places(self.tile.vectors(height)))
        width = sum(self.tile.vectors(height))
        sums = [[lanes_at(r * width + first, lanes) for first, lanes in vectors] for r in range(height * unroll)]
        for places in sums:
            for place, (_, lanes) in zip(places, vectors, strict=True):
                store(self._sums, place, spread(self.zero, lanes))
        a_start = let("a_start", rows.start + row * rows.stride)
        b_start = let("b_start", panel.start + column)

        def steps(a_place: Expr, k: Expr, count: int) -> None:
            place = let("a_step", a_start + a_place * rows.step)
            elements = elements_of(rows, place, height, count, by_lane=self.tile.by_lane)
            for part in range(count):
                b_place = let("b_place", b_start + (k + part) * PANEL)
                if product.ahead is not None:
                    product.ahead(row, k + part)
                elif height >= PREFETCH_HEIGHT:
                    prefetch(panel.buffer, b_place + PREFETCH_STEPS * PANEL, width)
                for group in _groups(vectors, 1 if self.tile.by_lane else len(vectors)):
                    stored = [load(panel.buffer, b_place + first, lanes) for _, first, lanes in group]
                    weights = [let("b", panel.decode(vector)) for vector in stored]
                    for r in range(height):
                        element, row_sums = elements(part, r), sums[part % unroll * height + r]
                        for (number, _, lanes), weight in zip(group, weights, strict=True):
                            total = tirx.BufferLoad(self._sums, [row_sums[number]])
                            store(self._sums, row_sums[number], fma(element(lanes), weight, total))

        _reduce(product.over, steps_together(rows, unroll, by_lane=self.tile.by_lane), steps)
        for r in range(height):
            for v, (first, _) in enumerate(vectors):
                total = tirx.BufferLoad(self._sums, [sums[r][v]])
                for part in range(1, unroll):
                    total = total + tirx.BufferLoad(self._sums, [sums[part * height + r][v]])
                product.sink(row + r, column + first, total)


def _places(widths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(first column, lanes) of vectors side by side."""
    first = 0
    for lanes in widths:
        yield first, lanes
        first += lanes


def _groups(vectors: list[tuple[int, int]], size: int) -> list[list[tuple[int, int, int]]]:
    """(number, first column, lanes) of vectors, a few at a time."""
    numbered = [(number, *vector) for number, vector in enumerate(vectors)]
    return [numbered[first : first + size] for first in range(0, len(numbered), size)]


def _reduce(over: Reduction, together: int, steps: Callable[[Expr, Expr, int], None]) -> None:
    """All steps, `together` of them at a time: steps(place in A, row of the panel, how many)."""

    def nest(remaining: tuple[tuple[Any, Any], ...], a_place: Expr, k: Expr) -> None:
        if not remaining:
            _run(over.inner, together, a_place, k, steps)
            return
        (extent, stride), *rest = remaining
        with loop("tap", extent) as tap:
            nest(tuple(rest), let("a_place", a_place + tap * stride), let("k", (k + tap) * _inner_extent(rest, over)))

    nest(over.outer, index(0), index(0))


def _inner_extent(rest: list[tuple[Any, Any]], over: Reduction) -> Any:
    """By how much the next loop level refines the count of steps."""
    return rest[0][0] if rest else over.inner


def _run(inner: Expr | int, together: int, a_place: Expr, k: Expr, steps: Callable[[Expr, Expr, int], None]) -> None:
    if isinstance(inner, int):
        whole, left = index(inner // together), inner % together
    else:
        whole, left = tirx.truncdiv(inner, index(together)), None
    if not isinstance(inner, int) or inner >= together:
        with loop("k", whole) as place:
            offset = let("offset", place * together)
            steps(a_place + offset, k + offset, together)
    if left == 0 or together == 1:
        return
    with loop("k", inner - whole * together if left is None else left) as place:
        offset = let("offset", whole * together + place)
        steps(a_place + offset, k + offset, 1)
