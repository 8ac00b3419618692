"""Sweeps over the last axis of a tensor, a vector at a time, with sums and maxima carried along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.mathlib import intrinsic
from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, spread, store_vector
from nomul.ir.dim import Dim

Expr = Any
UNROLL = 4  # vectors with an accumulator each, to hide the latency of additions

Element = Callable[[Expr, int], Expr]  # (place in the row, lanes) -> value
Combine = Callable[[Expr, Expr], Expr]


class RowSweep:
    """Sweeps over rows of `size` elements. Make it outside of loops: it owns the accumulators."""

    def __init__(self, frame: KernelFrame, size: Dim) -> None:
        self.lanes = frame.target.vector_bytes // 4
        self.size = index(size.value) if size.value is not None else frame.size(size)
        step = self.lanes * UNROLL
        self.wide = let("wide", tirx.truncdiv(self.size, index(step)) * step)
        self.whole = let("whole", tirx.truncdiv(self.size, index(self.lanes)) * self.lanes)
        self._sums = local("sums", "float32", step)
        self._rest = local("rest", "float32", 1)

    def each(self, body: Callable[[Expr, int], None]) -> None:
        """`body(place, lanes)` for the whole row: vectors, then single elements."""
        with loop("piece", tirx.truncdiv(self.whole, index(self.lanes))) as piece:
            body(let("place", piece * self.lanes), self.lanes)
        with loop("place", self.size - self.whole, self.whole) as place:
            body(place, 1)

    def total(self, element: Element) -> Expr:
        """The sum of all elements."""
        return self._fold(element, 0.0, lambda a, b: a + b)

    def largest(self, element: Element, start: float) -> Expr:
        """The largest element, or `start`."""
        return self._fold(element, start, lambda a, b: tirx.max(a, b))

    def _fold(self, element: Element, start: float, combine: Combine) -> Expr:
        places = [lanes_at(part * self.lanes, self.lanes) for part in range(UNROLL)]
        for place in places:
            store(self._sums, place, spread(tirx.FloatImm("float32", start), self.lanes))

        def add(place: Expr, part: int) -> None:
            value = let("value", element(place, self.lanes))
            store(self._sums, places[part], combine(tirx.BufferLoad(self._sums, [places[part]]), value))

        with loop("piece", tirx.truncdiv(self.wide, index(self.lanes * UNROLL))) as piece:
            for part in range(UNROLL):
                add(let("place", (piece * UNROLL + part) * self.lanes), part)
        with loop("piece", tirx.truncdiv(self.whole - self.wide, index(self.lanes))) as piece:
            add(let("place", self.wide + piece * self.lanes), 0)
        return self._finish(element, combine, places)

    def _finish(self, element: Element, combine: Combine, places: list[Expr]) -> Expr:
        """The accumulators combined as a tree, then the elements behind the last whole vector."""
        parts = [tirx.BufferLoad(self._sums, [place]) for place in places]
        store_vector(self._sums, 0, combine(combine(parts[0], parts[1]), combine(parts[2], parts[3])))
        width = self.lanes // 2
        while width:
            low, high = (tirx.BufferLoad(self._sums, [lanes_at(offset, width)]) for offset in (0, width))
            store_vector(self._sums, 0, combine(low, high))
            width //= 2
        store(self._rest, 0, self._sums[0])
        with loop("place", self.size - self.whole, self.whole) as place:
            value = let("value", element(place, 1))
            store(self._rest, 0, combine(self._rest[0], value))
        return let("folded", self._rest[0])


def square_root(value: Expr) -> Expr:
    return intrinsic("llvm.sqrt", value)
