"""Code of reductions. Across: a vector runs over results, each lane folds one of them. Along: a vector runs over the
elements of one result, and its lanes are folded together at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.emit import widen
from nomul.backends.frame import KernelFrame
from nomul.backends.kernels.affine import Form
from nomul.backends.kernels.folds import Fold, State
from nomul.backends.kernels.nest import Loop, Part
from nomul.backends.kernels.part_code import Bases, Elements, moved, vector_lanes
from nomul.backends.kernels.pieces import if_bit, steps
from nomul.backends.kernels.terms import Given, Term
from nomul.backends.mathlib import bind
from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, spread
from nomul.ir.dim import Dim

Expr = Any
COLUMNS = 32  # results side by side of a tile
_ACCUMULATORS = 8  # vectors of them
_CHAINS = 4  # vectors with a state each, to hide the latency of additions


@dataclass(frozen=True)
class Reduction:
    """What a kernel reduces. elements: their place is the index that a search remembers.

    results: with the nodes behind.  given: the term of `results` that the fold makes.  loops: over the elements of one.
    count: of those."""

    fold: Fold
    elements: Part
    results: Part
    given: Given
    loops: tuple[Loop, ...]
    count: Dim

    @property
    def forms(self) -> list[Form]:
        return list(dict.fromkeys([*self.elements.forms, *self.results.forms]))


class _Folding:
    """Common to both: states in registers, elements folded into them, results written."""

    def __init__(self, frame: KernelFrame, reduction: Reduction, along: Loop, vectors: int) -> None:
        self.frame, self.reduction, self.along = frame, reduction, along
        fold = reduction.fold
        narrow = max(1, frame.target.vector_bytes // fold.bytes)
        self.lanes = min(vector_lanes(frame, reduction.elements.term, along.size), narrow)
        self.elements = Elements(frame, reduction.elements, along, self.lanes)
        self.results = Elements(frame, reduction.results, along, self.lanes)
        self.states = [local("state", name, vectors * self.lanes) for name in fold.types]

    def clear(self, places: Sequence[Expr], lanes: int) -> None:
        for place in places:
            for buffer, value in zip(self.states, self.reduction.fold.start(), strict=True):
                store(buffer, place, spread(value, lanes))

    def state(self, place: Expr) -> State:
        return [tirx.BufferLoad(buffer, [index(place)]) for buffer in self.states]

    def keep(self, place: Expr, state: State) -> None:
        for buffer, value in zip(self.states, [bind(value) for value in state], strict=True):
            store(buffer, place, value)

    def lifted(self, place: Expr, lanes: int, bases: Bases, known: dict[Term, Expr]) -> State:
        """The state of the elements from a place along the loop on."""
        part = self.reduction.elements
        element = widen(self.elements.value(part.term, place, lanes, bases, known), lanes)
        return self.reduction.fold.lift(bind(element), self._index(place, lanes, bases[part.place]))

    def _index(self, place: Expr, lanes: int, base: Expr) -> Expr:
        """The index that a search remembers, for each lane."""
        step = self.frame.size(self.along.step(self.reduction.elements.place))
        first = tirx.Cast("int32", base + place * step)
        return first if lanes == 1 else tirx.Ramp(first, tirx.Cast("int32", step), lanes)

    def inside(self, bases: Bases, loops: Sequence[Loop], body: Callable[[Bases], None]) -> None:
        """The body for all indices of some loops."""
        if not loops:
            body(bases)
            return
        with loop("k", self.frame.size(loops[0].size)) as place:
            self.inside(moved(self.frame, bases, loops[0], place), loops[1:], body)

    def write(self, state: State, place: Expr, lanes: int, bases: Bases) -> None:
        """The nodes behind, and the store."""
        value = self.reduction.fold.finish(state, self.frame.size(self.reduction.count))
        bases, known = self.results.prepare(bases)
        known[self.reduction.given] = bind(value)
        self.results.store(place, lanes, bases, known)


class Across(_Folding):
    """Rows of results, up to 32 of them, a few vectors at a time through all elements."""

    def __init__(self, frame: KernelFrame, reduction: Reduction, along: Loop) -> None:
        super().__init__(frame, reduction, along, _ACCUMULATORS)
        self.vectors = max(1, min(_ACCUMULATORS, COLUMNS // self.lanes))

    def row(self, bases: Bases, count: Expr | None) -> None:
        for piece, lanes, vectors in self._pieces(count):
            with piece as place:
                self._block(place, lanes, vectors, bases)

    def _block(self, place: Expr, lanes: int, vectors: int, bases: Bases) -> None:
        places = [lanes_at(number * lanes, lanes) for number in range(vectors)]
        self.clear(places, lanes)

        def fold(current: Bases) -> None:
            current, known = self.elements.prepare(current)
            for number, kept in enumerate(places):
                new = self.lifted(place + number * lanes, lanes, current, known)
                self.keep(kept, self.reduction.fold.add(self.state(kept), new))

        self.inside(bases, self.reduction.loops, fold)
        for number, kept in enumerate(places):
            self.write(self.state(kept), place + number * lanes, lanes, bases)

    def _pieces(self, count: Expr | None) -> Iterator[tuple[Any, int, int]]:
        """Blocks of code that cover the row: (context that gives the first place, lanes, vectors)."""
        size, lanes, wide = self.along.size.value, self.lanes, self.lanes * self.vectors
        amount = count if count is not None else self.frame.size(self.along.size)
        blocks = let("blocks", tirx.truncdiv(amount, index(wide)))
        if size is None or size >= wide:
            yield steps(blocks, wide, index(0)), lanes, self.vectors
        done = let("done", blocks * wide)
        if size is not None and size % wide == 0:
            return
        singles = let("singles", tirx.truncdiv(amount - done, index(lanes)))
        if self.vectors > 1:
            yield steps(singles, lanes, done), lanes, 1
        done = let("done", done + singles * lanes)
        left = let("left", amount - done)
        while lanes > 1:
            lanes //= 2
            if size is None or size & lanes:
                yield if_bit(left, lanes, done), lanes, 1


class Along(_Folding):
    """One result at a time; the fold's last loop is the vectorised one."""

    def __init__(self, frame: KernelFrame, reduction: Reduction, along: Loop) -> None:
        super().__init__(frame, reduction, along, _CHAINS)
        self.rest = [local("rest", name, 1) for name in reduction.fold.types]
        self.places = [lanes_at(number * self.lanes, self.lanes) for number in range(_CHAINS)]

    def row(self, bases: Bases, count: Expr | None) -> None:
        self.clear(self.places, self.lanes)
        for buffer, value in zip(self.rest, self.reduction.fold.start(), strict=True):
            store(buffer, 0, value)
        outer = tuple(current for current in self.reduction.loops if current is not self.along)
        self.inside(bases, outer, self._sweep)
        self._together()
        rest = [buffer[index(0)] for buffer in self.rest]
        total = self.state(index(0)) if self.lanes > 1 else self.state(self.places[0])
        self.write([bind(value) for value in self.reduction.fold.join(total, rest)], index(0), 1, bases)

    def _sweep(self, bases: Bases) -> None:
        bases, known = self.elements.prepare(bases)
        size, step = self.frame.size(self.along.size), self.lanes * _CHAINS
        wide = let("wide", tirx.truncdiv(size, index(step)))
        with loop("piece", wide) as piece:
            for number, kept in enumerate(self.places):
                self._add(kept, let("place", piece * step + number * self.lanes), bases, known)
        done = let("done", wide * step)
        whole = let("whole", tirx.truncdiv(size - done, index(self.lanes)))
        with loop("piece", whole) as piece:
            self._add(self.places[0], let("place", done + piece * self.lanes), bases, known)
        done = let("done", done + whole * self.lanes)
        if self.along.size.value is not None and self.along.size.value % self.lanes == 0:
            return
        with loop("place", size - done, done) as place:
            state = [buffer[index(0)] for buffer in self.rest]
            joined = self.reduction.fold.add(state, self.lifted(place, 1, bases, known))
            for buffer, value in zip(self.rest, [bind(value) for value in joined], strict=True):
                store(buffer, 0, value)

    def _add(self, kept: Expr, place: Expr, bases: Bases, known: dict[Term, Expr]) -> None:
        new = self.lifted(place, self.lanes, bases, known)
        self.keep(kept, self.reduction.fold.add(self.state(kept), new))

    def _together(self) -> None:
        """All states into the first lane: the chains, then halves of the lanes."""
        join = self.reduction.fold.join
        a, b, c, d = ([bind(value) for value in self.state(place)] for place in self.places)
        low, high = [bind(value) for value in join(a, b)], [bind(value) for value in join(c, d)]
        self.keep(self.places[0], join(low, high))
        width = self.lanes // 2
        while width:
            halves = [[bind(value) for value in self.state(lanes_at(first, width))] for first in (0, width)]
            self.keep(lanes_at(0, width), join(*halves))
            width //= 2
