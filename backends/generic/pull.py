"""Evaluation of a group by pulling: an element of a value is asked for, and asks for those that it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from nomul.backends.emit import Expr, Index, broadcast_index, compute_type, emit, index_key, literal
from nomul.backends.expressions import bind
from nomul.backends.frame import KernelFrame, index_constant
from nomul.backends.generic import rules
from nomul.backends.storage import from_storage, storage_type, to_storage
from nomul.backends.tir.body import buffer_at
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.op import Kind
from nomul.ir.types import DType

_ALIGNMENT = 64
_BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1}


class Cell:
    """A scalar variable of the function."""

    def __init__(self, start: Expr) -> None:
        self._local = T.alloc_buffer((1,), start.ty.dtype, scope="local")
        self.set(start)

    def get(self) -> Expr:
        return self._local[0]

    def set(self, value: Expr) -> None:
        T.buffer_store(self._local, value, [0])


@dataclass(frozen=True)
class Strip:
    """A row of elements in memory. first: place of element 0 in the buffer."""

    buffer: Any
    first: Expr

    def read(self, place: Expr) -> Expr:
        return bind(self.buffer[self.first + place])

    def write(self, place: Expr, element: Expr) -> None:
        T.buffer_store(self.buffer, element, [self.first + place])


@dataclass(frozen=True)
class Stored:
    """All elements of `value`, row-major, in memory."""

    value: Value
    strip: Strip
    frame: KernelFrame

    def read(self, index: Index) -> Expr:
        raw = self.strip.read(self.frame.offset(self.value.shape, index))
        return bind(from_storage(raw, self.value.dtype, self.frame.target))

    def write(self, index: Index, element: Expr) -> None:
        stored = to_storage(element, self.value.dtype, self.frame.target)
        self.strip.write(self.frame.offset(self.value.shape, index), stored)


Step = Callable[[Index], tuple[Expr, ...]]


@dataclass(frozen=True)
class Line:
    """How to walk a result. lines, places: sizes of the loops over lines, and along each of them.

    at(line, place): the index in the result.  prepare(line): emits what a line shares, and returns step(index), which
    gives one element per result of the node and is called once per place, in order."""

    lines: tuple[Dim, ...]
    places: tuple[Dim, ...]
    at: Callable[[Index, Index], Index]
    prepare: Callable[[Index], Step]

    @staticmethod
    def along(shape: tuple[Dim, ...], axis: int, prepare: Callable[[Index], Step]) -> Line:
        """Lines along one axis; prepare gets an index with 0 there."""

        def at(line: Index, place: Index) -> Index:
            return (*line[:axis], *place, *line[axis:])

        outer = (*shape[:axis], *shape[axis + 1 :])
        return Line(outer, (shape[axis],), at, lambda line: prepare(at(line, (index_constant(0),))))


class Pull:
    """Asks for elements. stored: values that lie in buffers already."""

    def __init__(self, frame: KernelFrame) -> None:
        self.frame = frame
        self.stored: dict[Value, Stored] = {}
        self.scratch = Dim.of(0)
        self._found: list[dict[Any, Expr]] = [{}]

    # -- elements ----------------------------------------------------------------------------------------------
    def element(self, value: Value, index: Index) -> Expr:
        """The compute value of `value` at `index` (one int64 expression per axis)."""
        if isinstance(value, Constant):
            return literal(value)
        key = (value, index_key(index))
        for layer in reversed(self._found):
            if key in layer:
                return layer[key]
        element = bind(self._compute(value, index))
        self._found[-1][key] = element
        return element

    def operand(self, node: Node, position: int, index: Index) -> Expr:
        """An element of an operand of a node."""
        value = node.args[position]
        assert value is not None
        return self.element(value, index)

    def _compute(self, value: Value, index: Index) -> Expr:
        if value in self.stored:
            return self.stored[value].read(index)
        node = value.producer
        if node is None:
            return self.frame.read(value, index)
        if node.spec.kind is Kind.ELEMENTWISE:
            args = [self.element(arg, broadcast_index(index, arg.shape)) for arg in node.args if arg is not None]
            return emit(node, args)
        return rules()[node.op].function(self, node, index)

    def know(self, values: Sequence[Value], index: Index, elements: Sequence[Expr]) -> None:
        """Enter elements that a line has computed."""
        for value, element in zip(values, elements, strict=True):
            known = bind(element)
            for place in (index, broadcast_index(index, value.shape)):  # readers may write 0 on axes of size 1
                self._found[-1][value, index_key(place)] = known

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A block of its own: what is computed inside is not visible behind it."""
        self._found.append({})
        try:
            yield
        finally:
            self._found.pop()

    @staticmethod
    def type(dtype: DType) -> str:
        """TIR's name of the type that elements of `dtype` are computed in."""
        return compute_type(dtype)

    # -- scratch -----------------------------------------------------------------------------------------------
    def strip(self, dtype: str, count: Dim) -> Strip:
        """Room for `count` elements of a TIR type."""
        size = _BYTES[dtype]
        first, self.scratch = self.scratch, self.scratch + ceil_div(count * size, _ALIGNMENT) * _ALIGNMENT
        return Strip(buffer_at("scratch", dtype, self.frame.scratch), self.size(first // size))

    def store(self, value: Value) -> Stored:
        """Room for all elements of a value, in the result where it is one; enter it into `stored` once it is filled."""
        for position, returned in enumerate(self.frame.group.func.returns):
            if returned is value:
                buffer = self.frame.buffer(self.frame.results[position])
                return Stored(value, Strip(buffer, index_constant(0)), self.frame)
        return Stored(value, self.strip(storage_type(value.dtype), value.type.numel), self.frame)

    # -- control -----------------------------------------------------------------------------------------------
    def size(self, dim: Dim | int) -> Expr:
        return self.frame.size(dim)

    @contextmanager
    def loops(self, *ranges: Expr | tuple[Expr, Expr]) -> Iterator[Index]:
        """Nested loops, outermost first; a range is an extent or (begin, end)."""
        frames, places = [], []
        for extent in ranges:
            begin, end = extent if isinstance(extent, tuple) else (index_constant(0), extent)
            frames.append(T.serial(begin, end))
            places.append(frames[-1].__enter__())
        with self.scope():
            yield tuple(places)
        for frame in reversed(frames):
            frame.__exit__(None, None, None)

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """A block that runs where the condition holds."""
        with T.If(condition), T.Then(), self.scope():
            yield

    def where(self, condition: Expr, dtype: DType, then: Callable[[], Expr], otherwise: Expr) -> Expr:
        """then() where the condition holds: it is not evaluated elsewhere."""
        cell = Cell(tirx.const(0, compute_type(dtype)))
        cell.set(otherwise)
        with self.when(condition):
            cell.set(then())
        return bind(cell.get())

    def fold(
        self, ranges: Sequence[Expr | tuple[Expr, Expr]], start: Expr, step: Callable[[Expr, Index], Expr]
    ) -> Expr:
        """step(accumulator, index) over nested loops, from `start`."""
        cell = Cell(start)
        with self.loops(*ranges) as places:
            cell.set(step(cell.get(), places))
        return cell.get()


def replaced(index: Index, axis: int, place: Expr) -> Index:
    return (*index[:axis], place, *index[axis + 1 :])
