"""The f32 inner kernel: a block of rows of A times one weight panel, summed in registers (explicit multiply-adds).

A tile of R rows and C columns holds R * C / lanes sums. One step of the reduction loads C / lanes vectors of the panel
and one element of each row, repeated over the lanes: R * C / lanes multiply-adds for C / lanes + R loads, so 8 x 32 on
AVX-512 takes 10 loads for 16 multiply-adds and runs at the multiply-add peak (benchmarks/gemm.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.mathlib import fma
from nomul.backends.tir.body import evaluate, index, let, local, loop, store, when
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.vectors import lanes_at, load, spread

Expr = Any
PREFETCH_STEPS = 16  # how far ahead in the panel; beyond 1,024 steps the sums are up to 15 % faster for it
PREFETCH_HEIGHT = 4  # lower tiles run at memory speed, and prefetches only cost them
# (row of the block, first column in the panel, sums) for one vector of finished sums
Sink = Callable[[Expr, Expr, Expr], None]


@dataclass(frozen=True)
class Reduction:
    """The places of A that one sum runs over: loops around a run of `inner` contiguous elements.

    outer: (extent, stride in A) of each loop, outermost first.  The panel's rows are in that order, without gaps."""

    inner: Expr | int
    outer: tuple[tuple[Expr | int, Expr | int], ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows of A: element k of row r is `buffer[start + r * stride + k * step]`."""

    buffer: Any
    start: Expr
    stride: Expr | int
    step: Expr | int = 1


@dataclass(frozen=True)
class Panel:
    """A weight panel [K, 32]: element c of row k is `buffer[start + k * 32 + c]`. decode: stored vector -> f32."""

    buffer: Any
    start: Expr
    decode: Callable[[Expr], Expr] = field(default=lambda raw: raw)


@dataclass(frozen=True)
class Product:
    """What a block computes: rows of A times a panel; each finished vector of sums goes to `sink`."""

    rows: Rows
    panel: Panel
    over: Reduction
    sink: Sink


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

        def step(a_place: Expr, k: Expr, part: int) -> None:
            b_place = let("b_place", b_start + k * PANEL)
            if height >= PREFETCH_HEIGHT:
                _prefetch(panel.buffer, b_place + PREFETCH_STEPS * PANEL, width)
            stored = [load(panel.buffer, b_place + first, lanes) for first, lanes in vectors]
            weights = [let("b", panel.decode(vector)) for vector in stored]
            for r in range(height):
                element = let("element", rows.buffer[a_start + a_place * rows.step + r * rows.stride])
                for place, weight, (_, lanes) in zip(sums[part * height + r], weights, vectors, strict=True):
                    total = tirx.BufferLoad(self._sums, [place])
                    store(self._sums, place, fma(spread(element, lanes), weight, total))

        _reduce(product.over, unroll, step)
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


def _reduce(over: Reduction, unroll: int, step: Callable[[Expr, Expr, int], None]) -> None:
    """All steps: step(place in A, row of the panel, which of the `unroll` sums)."""

    def nest(remaining: tuple[tuple[Any, Any], ...], a_place: Expr, k: Expr) -> None:
        if not remaining:
            _run(over.inner, unroll, a_place, k, step)
            return
        (extent, stride), *rest = remaining
        with loop("tap", extent) as tap:
            nest(tuple(rest), let("a_place", a_place + tap * stride), let("k", (k + tap) * _inner_extent(rest, over)))

    nest(over.outer, index(0), index(0))


def _inner_extent(rest: list[tuple[Any, Any]], over: Reduction) -> Any:
    """By how much the next loop level refines the count of steps."""
    return rest[0][0] if rest else over.inner


def _run(inner: Expr | int, unroll: int, a_place: Expr, k: Expr, step: Callable[[Expr, Expr, int], None]) -> None:
    if isinstance(inner, int):
        whole, left = index(inner // unroll), inner % unroll
    else:
        whole, left = tirx.truncdiv(inner, index(unroll)), None
    with loop("k", whole) as place:
        for part in range(unroll):
            offset = let("offset", place * unroll + part)
            step(a_place + offset, k + offset, part)
    if left == 0 or unroll == 1:
        return
    with loop("k", inner - whole * unroll if left is None else left) as place:
        offset = let("offset", whole * unroll + place)
        step(a_place + offset, k + offset, 0)


def _prefetch(buffer: Any, place: Expr, count: int) -> None:
    """Bring `count` elements into the first-level cache; a place behind the buffer's end does no harm."""
    line = 64 // np.dtype(str(buffer.ty.dtype)).itemsize
    read, keep, data = (tirx.IntImm("int32", value) for value in (0, 3, 1))
    for offset in range(0, count, line):
        address = tirx.address_of(buffer[place + offset])
        evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch.p0", address, read, keep, data))
