"""Code of one part of a plain kernel: its tiles, the loops of a tile, and the innermost one a vector at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from tvm import tirx

from nomul.backends.emit import compute_type, emit, lanes_of, literal, widen
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.kernels.affine import Form
from nomul.backends.kernels.nest import Loop, Part, Plan, TilePlan
from nomul.backends.kernels.pieces import if_bit, steps
from nomul.backends.kernels.terms import Compute, Count, Given, Literal, Lookup, Read, Term, element_bytes
from nomul.backends.mathlib import bind
from nomul.backends.storage import rounded
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.encoded_row import PlainRows, has_vectors
from nomul.ir.dim import Dim
from nomul.ir.shapes import NOTHING, ONE

Expr = Any
Bases = dict[Any, Expr]  # place in memory at the current loop indices, by form (and by Lookup: that of its row)
_CHEAP = 3  # element-wise nodes of which several copies for narrow vectors are no burden


def emit_parts(frame: KernelFrame, parts: Sequence[Code]) -> None:
    """The tiles [begin, end) of several parts that follow each other."""
    first: Expr = index(0)
    for part in parts:
        last = let("last", first + frame.size(part.plan.tiles))
        begin, end = let("begin", tirx.max(frame.begin, first)), let("end", tirx.min(frame.end, last))
        with loop("tile", tirx.max(end - begin, index(0)), begin) as number:
            part.tile(let("number", number - first))
        first = last


class Code(Protocol):
    """Emits a tile of a part."""

    @property
    def plan(self) -> Plan: ...

    def tile(self, number: Expr) -> None: ...


class Rows(Protocol):
    """Emits what happens along the last loop."""

    def row(self, bases: Bases, count: Expr | None) -> None:
        """`count` indices of the loop (None: all), from the places `bases` on."""


class PartCode:
    """Emits the loops of a plan but the last one, which is for `rows`. forms: the places to keep track of."""

    def __init__(self, frame: KernelFrame, plan: TilePlan, forms: Sequence[Form], rows: Rows) -> None:
        self.frame, self.plan, self.forms, self.rows = frame, plan, forms, rows

    def tile(self, number: Expr) -> None:
        """All elements of one tile."""
        indices = split_index(number, [self.frame.size(count) for count in self.plan.counts])
        bases = {form: self.frame.size(form.offset) for form in self.forms}
        for cut, place in zip(self.plan.loops[: self.plan.cut], indices, strict=False):
            bases = moved(self.frame, bases, cut, place)
        self._loops(self.plan.cut, bases, self._run(indices[-1]) if self.plan.chunk is not None else None)

    def _run(self, chunk_number: Expr) -> tuple[Expr, Expr]:
        """First index and length of a run of the chunked loop."""
        size = self.frame.size(self.plan.loops[self.plan.cut].size)
        start = let("start", chunk_number * self.plan.chunk)
        return start, let("count", tirx.min(index(self.plan.chunk), size - start))

    def _loops(self, number: int, bases: Bases, run: tuple[Expr, Expr] | None) -> None:
        current = self.plan.loops[number]
        start, count = run or (index(0), None)
        if number == len(self.plan.loops) - 1:
            self.rows.row(moved(self.frame, bases, current, start) if run else bases, count)
            return
        with loop("i", self.frame.size(current.size) if count is None else count, start) as place:
            self._loops(number + 1, moved(self.frame, bases, current, place), None)


def moved(frame: KernelFrame, bases: Bases, by: Loop, place: Expr) -> Bases:
    """The places when a loop stands at an index."""
    result = dict(bases)
    for form in bases:
        if by.step(form) != NOTHING:
            result[form] = let("at", bases[form] + place * frame.size(by.step(form)))
    return result


class Elements:
    """Emits elements of a part along one loop."""

    def __init__(self, frame: KernelFrame, part: Part, along: Loop, lanes: int | None = None) -> None:
        self.frame, self.part, self.along = frame, part, along
        self.lanes = lanes or vector_lanes(frame, part.term, along.size)
        self.still = {term for term in part.terms if not self._varies(term)}

    def row(self, bases: Bases, count: Expr | None) -> None:
        """Computes and stores elements."""
        bases, known = self.prepare(bases)
        for piece, lanes in self._pieces(count):
            with piece as place:
                self.store(place, lanes, bases, known)

    def prepare(self, bases: Bases) -> tuple[Bases, dict[Term, Expr]]:
        """What does not change along the loop, computed once; also the places of the rows that are looked up."""
        bases = dict(bases)
        known: dict[Term, Expr] = {}
        for term in self.part.terms:
            if isinstance(term, Lookup) and term.index in self.still:
                bases[term] = self._row_base(term, bases, self.value(term.index, index(0), 1, bases, known))
            if term in self.still:
                known[term] = self.value(term, index(0), 1, bases, known)
        return bases, known

    def value(self, term: Term, place: Expr, lanes: int, bases: Bases, known: dict[Term, Expr]) -> Expr:
        """The compute value of a term at a place along the loop, or those of it and its neighbours."""
        found = dict(known)

        def visit(current: Term) -> Expr:
            if current not in found:
                found[current] = self._made(current, visit, place, lanes, bases)
            return found[current]

        return visit(term)

    def store(self, place: Expr, lanes: int, bases: Bases, known: dict[Term, Expr]) -> None:
        """Compute and store elements from a place along the loop on."""
        value = self.value(self.part.term, place, lanes, bases, known)
        moves = self.along.step(self.part.place) != NOTHING
        self.frame.write_flat(
            0, self._at(bases[self.part.place], self.part.place, place, lanes), widen(value, lanes if moves else 1)
        )

    # -- parts -------------------------------------------------------------------------------------------------
    def _varies(self, term: Term) -> bool:
        moves = any(self.along.step(form) != NOTHING for form in term.forms)
        return moves or isinstance(term, Given) or any(map(self._varies, term.parts))

    def _made(self, term: Term, visit: Callable[[Term], Expr], place: Expr, lanes: int, bases: Bases) -> Expr:
        if isinstance(term, Literal):
            return literal(term.constant)
        if isinstance(term, Count):
            return self._number(term, self._at(bases[term.place], term.place, place, lanes))
        if isinstance(term, Read):
            return self.frame.read_flat(term.param, self._at(bases[term.place], term.place, place, lanes))
        if isinstance(term, Lookup):
            return self._looked_up(term, visit, place, lanes, bases)
        if isinstance(term, Compute):
            return emit(term.node, [visit(arg) for arg in term.args])
        raise TypeError(f"{type(term).__name__} must be known")

    def _number(self, term: Count, number: Expr) -> Expr:
        goal = compute_type(term.dtype, lanes_of(number))
        value = number if number.ty.dtype == goal else tirx.Cast(goal, number)
        return bind(rounded(bind(value), term.dtype))

    def _looked_up(self, term: Lookup, visit: Callable[[Term], Expr], place: Expr, lanes: int, bases: Bases) -> Expr:
        if has_vectors(term.param.type.encoding):
            return self._decoded(term, visit, place, lanes, bases)
        if term in bases:
            return self.frame.read_flat(term.param, self._at(bases[term], term.place, place, lanes))
        moved = widen(self._at(bases[term.place], term.place, place, lanes), lanes)
        row = self._row_number(term, widen(visit(term.index), lanes), lanes)
        return self.frame.read_flat(term.param, moved + row * widen(self.frame.size(term.stride), lanes))

    def _decoded(self, term: Lookup, visit: Callable[[Term], Expr], place: Expr, lanes: int, bases: Bases) -> Expr:
        """Of an encoded table; its places are columns."""
        row = bases[term] if term in bases else self._row_number(term, widen(visit(term.index), lanes), lanes)
        column = self._at(bases[term.place], term.place, place, lanes)
        rows = self.frame.row_readers.get(term.param) or PlainRows(self.frame.packed_weight(term.param))
        if lanes > 1 and lanes_of(row) == 1 and self.along.step(term.place) == ONE:
            return rows.vector(row, column.base, lanes)
        count = max(lanes_of(row), lanes_of(column))
        values = [rows.element(_lane(row, lane), _lane(column, lane)) for lane in range(count)]
        return values[0] if count == 1 else tirx.Shuffle(values, [tirx.const(lane, "int32") for lane in range(count)])

    def _row_base(self, term: Lookup, bases: Bases, number: Expr) -> Expr:
        if has_vectors(term.param.type.encoding):
            return self._row_number(term, number, 1)
        return let("row", bases[term.place] + self._row_number(term, number, 1) * self.frame.size(term.stride))

    def _row_number(self, term: Lookup, number: Expr, lanes: int) -> Expr:
        """Counted from the end below zero, then limited to what there is."""
        rows = widen(self.frame.size(term.rows), lanes)
        zero, one = widen(index(0), lanes), widen(index(1), lanes)
        number = let("number", tirx.Cast("int64" if lanes == 1 else f"int64x{lanes}", number))
        number = let("number", tirx.Select(number < zero, number + rows, number))
        return let("number", tirx.max(tirx.min(number, rows - one), zero))

    def _at(self, base: Expr, form: Form, place: Expr, lanes: int) -> Expr:
        """Places of elements from index `place` on; one place where the loop does not move the form."""
        step = self.along.step(form)
        if step == NOTHING:
            return base
        if step == ONE:
            return _places(base + place, index(1), lanes)
        stride = self.frame.size(step)
        return _places(base + place * stride, stride, lanes)

    def _pieces(self, count: Expr | None) -> Iterator[tuple[Any, int]]:
        """Blocks of code that cover the loop: (context that gives the place, lanes)."""
        size, lanes = self.along.size.value, self.lanes
        amount = count if count is not None else self.frame.size(self.along.size)
        if count is None and size is not None:
            yield from self._static_pieces(size)
            return
        whole = let("whole", tirx.truncdiv(amount, index(lanes)))
        yield steps(whole, lanes, index(0)), lanes
        if lanes == 1 or (size is not None and size % lanes == 0):
            return
        done = let("done", whole * lanes)
        rest = let("rest", amount - done)
        if not self._is_cheap:
            yield steps(rest, 1, done), 1
            return
        while lanes > 1:
            lanes //= 2
            yield if_bit(rest, lanes, done), lanes

    def _static_pieces(self, size: int) -> Iterator[tuple[Any, int]]:
        lanes = self.lanes
        yield steps(index(size // lanes), lanes, index(0)), lanes
        done, rest = size // lanes * lanes, size % lanes
        if not self._is_cheap and rest:
            yield steps(index(rest), 1, index(done)), 1
            return
        while done < size:
            while lanes > size - done:
                lanes //= 2
            yield steps(index(1), lanes, index(done)), lanes
            done += lanes

    @property
    def _is_cheap(self) -> bool:
        return self.part.term in self.still or self.part.computes <= _CHEAP


def vector_lanes(frame: KernelFrame, term: Term, size: Dim) -> int:
    """Elements of a vector: as many as registers hold and the loop has."""
    lanes = max(1, frame.target.vector_bytes // element_bytes(term))
    while size.value is not None and lanes > max(1, size.value):
        lanes //= 2
    return lanes


def _lane(value: Expr, lane: int) -> Expr:
    """One lane of a vector; a scalar is the same in all."""
    return value if lanes_of(value) == 1 else bind(tirx.Shuffle([value], [tirx.const(lane, "int32")]))


def _places(first: Expr, stride: Expr, lanes: int) -> Expr:
    return first if lanes == 1 else tirx.Ramp(first, stride, lanes)
