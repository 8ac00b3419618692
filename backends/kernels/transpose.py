"""Operands that lie crosswise: their elements are neighbours along another loop than the innermost one. A strip of such
an operand is transposed into scratch by square blocks in registers, and read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.kernels.nest import Loop, Part
from nomul.backends.kernels.part_code import Bases, Elements, moved
from nomul.backends.kernels.terms import Read, Term
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.transposition import transposed
from nomul.backends.tir.vectors import load, store_vector
from nomul.ir.dim import Dim, Range, ceil_div, product
from nomul.ir.shapes import NOTHING, ONE
from nomul.ir.types import DType

Expr = Any
SIDE = 64  # of a tile
STRIP = 16  # rows of a strip: a cache line of the operand
_SHORTEST = 8  # loops that are worth it


@dataclass(frozen=True)
class CrossPlan:
    """Loops of a part, the last two of which run along the operands and along the result; tiles are squares of them."""

    loops: tuple[Loop, ...]
    reads: tuple[Read, ...]

    @property
    def counts(self) -> tuple[Dim, ...]:
        outer = tuple(current.size for current in self.loops[:-2])
        return (*outer, *(ceil_div(current.size, SIDE) for current in self.loops[-2:]))

    @property
    def tiles(self) -> Dim:
        return product(self.counts)

    def elements(self, ranges: Mapping[str, Range]) -> int:
        return SIDE * SIDE

    @property
    def scratch(self) -> int:
        return len(self.reads) * STRIP * SIDE * 4


def plan_crosswise(part: Part, loops: Sequence[Loop]) -> CrossPlan | None:
    """For a part with operands that lie crosswise along long loops."""
    last = loops[-1]
    found: dict[Loop, list[Read]] = {}
    for term in part.terms:
        if isinstance(term, Read) and term.param.dtype in (DType.F32, DType.I32) and term.param.type.encoding is None:
            along = next((current for current in loops[:-1] if current.step(term.place) == ONE), None)
            if along is not None and last.step(term.place) not in (NOTHING, ONE):
                found.setdefault(along, []).append(term)
    if not found or last.step(part.place) != ONE:
        return None
    along = max(found, key=lambda current: len(found[current]))
    if any((current.size.value or _SHORTEST) < _SHORTEST for current in (along, last)):
        return None
    others = (current for current in loops if current not in (along, last))
    return CrossPlan((*others, along, last), tuple(found[along]))


class CrossCode:
    """Emits one part by a CrossPlan. first: where its scratch begins, in elements."""

    def __init__(self, frame: KernelFrame, part: Part, plan: CrossPlan) -> None:
        self.frame, self.part, self.plan = frame, part, plan
        self.along, self.last = plan.loops[-2:]
        strips = [buffer_at("strips", read.param.dtype.numpy.name, frame.scratch) for read in plan.reads]
        self.strips = [Strip(strip, number * STRIP * SIDE) for number, strip in enumerate(strips)]
        self.elements = _Elements(frame, part, self.last, dict(zip(plan.reads, self.strips, strict=True)))

    def tile(self, number: Expr) -> None:
        """All elements of one tile."""
        *outer, row, column = split_index(number, [self.frame.size(count) for count in self.plan.counts])
        bases: Bases = {form: self.frame.size(form.offset) for form in self.part.forms}
        for current, place in zip(self.plan.loops, outer, strict=False):
            bases = moved(self.frame, bases, current, place)
        first_row, first_column = let("first_row", row * SIDE), let("first_column", column * SIDE)
        rows = let("rows", tirx.min(index(SIDE), self.frame.size(self.along.size) - first_row))
        columns = let("columns", tirx.min(index(SIDE), self.frame.size(self.last.size) - first_column))
        bases = moved(self.frame, moved(self.frame, bases, self.along, first_row), self.last, first_column)
        with loop("strip", tirx.truncdiv(rows + (STRIP - 1), index(STRIP))) as strip:
            first = let("first", strip * STRIP)
            self._strip(moved(self.frame, bases, self.along, first), tirx.min(index(STRIP), rows - first), columns)

    def _strip(self, bases: Bases, rows: Expr, columns: Expr) -> None:
        rows = let("strip_rows", rows)
        for read, strip in zip(self.plan.reads, self.strips, strict=True):
            self._fill(strip, read, bases[read.place], rows, columns)
        with loop("row", rows) as row:
            for strip in self.strips:
                strip.row = let("strip_row", row * SIDE + strip.first)
            self.elements.row(moved(self.frame, bases, self.along, row), columns)

    def _fill(self, strip: Strip, read: Read, base: Expr, rows: Expr, columns: Expr) -> None:
        """The strip's rows from columns of the operand: whole blocks in registers, the rest one by one."""
        stride = self.frame.size(self.last.step(read.place))
        buffer, block = self.frame.buffer(read.param), _block(self.frame.target)
        full = let("full", tirx.Select(tirx.EQ(rows, index(STRIP)), tirx.truncdiv(columns, index(block)), index(0)))
        with loop("block", full) as number:
            column = let("column", number * block)
            source = let("source", base + column * stride)
            for first in range(0, STRIP, block):
                vectors = [let("vector", load(buffer, source + k * stride + first, block)) for k in range(block)]
                for k, vector in enumerate(transposed(vectors)):
                    store_vector(strip.buffer, column + (strip.first + (first + k) * SIDE), vector)
        with loop("column", columns - full * block, full * block) as column:
            source = let("source", base + column * stride)
            with loop("row", rows) as row:
                store_vector(strip.buffer, row * SIDE + strip.first + column, buffer[source + row])


def _block(target: Target) -> int:
    return min(STRIP, target.vector_bytes // 4)


@dataclass
class Strip:
    """16 x 64 elements of an operand in scratch, in the order of the result. row: where the current row begins."""

    buffer: Any
    first: int
    row: Expr = None


class _Elements(Elements):
    """Elements whose crosswise reads come from strips."""

    def __init__(self, frame: KernelFrame, part: Part, along: Loop, strips: dict[Read, Strip]) -> None:
        super().__init__(frame, part, along)
        self._strips = strips

    def _made(self, term: Term, visit: Callable[[Term], Expr], place: Expr, lanes: int, bases: Bases) -> Expr:
        if isinstance(term, Read) and term in self._strips:
            strip = self._strips[term]
            return let("crossed", load(strip.buffer, strip.row + place, lanes))
        return super()._made(term, visit, place, lanes, bases)
