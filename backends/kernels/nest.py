"""Loops of plain kernels and how tiles cut them: adjacent axes that all operands run through alike become one loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

from nomul.backends.kernels.affine import Form, Space
from nomul.backends.kernels.terms import Compute, Term, all_terms
from nomul.ir.dim import Dim, Range, ceil_div, product
from nomul.ir.shapes import NOTHING, ONE

TILE = 4096  # elements that a tile is cut to
THREAD_WORK = 2 * TILE  # elements worth handing to a thread
_TYPICAL = 256  # assumed size of a dim without an upper bound


@dataclass(frozen=True)
class Loop:
    """size: how often it runs.  axis: number of the space's loop whose steps it makes; None where there is none."""

    size: Dim
    axis: int | None

    def step(self, form: Form) -> Dim:
        return NOTHING if self.axis is None else form.steps[self.axis]


@dataclass(frozen=True, eq=False)
class Part:
    """A box of a result: each element of `term` goes to `place`, for all indices of the space's loops."""

    space: Space
    term: Term
    place: Form

    @cached_property
    def terms(self) -> list[Term]:
        return all_terms(self.term)

    @cached_property
    def forms(self) -> list[Form]:
        return list(dict.fromkeys([self.place, *(form for term in self.terms for form in term.forms)]))

    @property
    def computes(self) -> int:
        """How many element-wise nodes an element takes."""
        return sum(isinstance(term, Compute) for term in self.terms)


def collapsed(sizes: Sequence[Dim], forms: Iterable[Form], apart: Iterable[int] = ()) -> list[Loop]:
    """The fewest loops, in the order of the space's. apart: loops that are not joined with the one outside of them."""
    forms = list(forms)
    loops: list[Loop] = []
    for axis, size in enumerate(sizes):
        outer = loops[-1] if loops and axis not in apart else None
        if outer is not None and all(outer.step(form) == form.steps[axis] * size for form in forms):
            loops[-1] = Loop(outer.size * size, axis)
        else:
            loops.append(Loop(size, axis))
    return loops or [Loop(ONE, None)]


class Plan(Protocol):
    """How the elements of a part are shared out to tiles. scratch: bytes."""

    @property
    def tiles(self) -> Dim: ...

    @property
    def scratch(self) -> int: ...

    def elements(self, ranges: Mapping[str, Range]) -> int:
        """About how many elements a tile has."""


@dataclass(frozen=True)
class TilePlan:
    """The first `cut` loops are cut into single indices and loop number `cut` into runs of `chunk` of them (None: it is
    not cut); a tile is one such combination and runs all of the loops behind."""

    loops: tuple[Loop, ...]
    cut: int
    chunk: int | None

    @property
    def counts(self) -> tuple[Dim, ...]:
        """The number of tiles along each cut loop."""
        outer = tuple(loop.size for loop in self.loops[: self.cut])
        return outer if self.chunk is None else (*outer, ceil_div(self.loops[self.cut].size, self.chunk))

    @property
    def tiles(self) -> Dim:
        return product(self.counts)

    @property
    def scratch(self) -> int:
        return 0

    def elements(self, ranges: Mapping[str, Range]) -> int:
        inner = [typical(loop.size, ranges) for loop in self.loops[self.cut :]]
        if self.chunk is not None:
            inner[0] = min(inner[0], self.chunk)
        return prod(inner)


def plan_tiles(loops: Sequence[Loop], ranges: Mapping[str, Range], tile: int = TILE) -> TilePlan:
    """Tiles of at most about `tile` elements; loops whose size is not known are cut so that a long one makes many."""
    inner = 1
    for number in reversed(range(len(loops))):
        most = loops[number].size.bounds(ranges)[1]
        if inner * most > tile:
            chunk = tile // inner
            return TilePlan(tuple(loops), number, chunk) if chunk > 1 else TilePlan(tuple(loops), number + 1, None)
        inner *= int(most)
    return TilePlan(tuple(loops), 0, None)


def typical(size: Dim, ranges: Mapping[str, Range]) -> int:
    """A guess at a size, for decisions about speed only."""
    low, high = size.bounds(ranges)
    return int(low) if low == high else int(max(low, min(_TYPICAL, high)))


def grain(elements: int, work: int = THREAD_WORK) -> int:
    """Fewest tiles worth handing to a thread."""
    return max(1, -(-work // max(1, elements)))
