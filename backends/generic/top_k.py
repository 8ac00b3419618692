"""index.top_k: a heap of a line's elements in scratch, whose root is taken k times (Williams 1964, Floyd 1964)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.tirx.script import builder as T

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.pull import Cell, Line, Pull, Step, replaced
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

Element = tuple[Expr, Expr]  # (value, place on the axis)


@line("index.top_k")
def top_k(pull: Pull, node: Node) -> Line:
    axis, x = node.attrs["axis"], node.args[0]
    assert x is not None
    size = x.shape[axis]

    def prepare(index: Index) -> Step:
        heap = _Heap(pull, pull.type(x.dtype), size, node.attrs["largest"])
        with pull.loops(pull.size(size)) as (i,):
            heap.put(i, (pull.element(x, replaced(index, axis, i)), i))
        heap.order()
        return lambda place: heap.take()

    return Line.along(node.results[0].shape, axis, prepare)


class _Heap:
    """Each element comes before its two children, at 2 i + 1 and 2 i + 2, in the order of the results."""

    def __init__(self, pull: Pull, dtype: str, size: Dim, largest: bool) -> None:
        self._pull, self._largest = pull, largest
        self._values, self._places = pull.strip(dtype, size), pull.strip("int64", size)
        self._size = Cell(pull.size(size))

    def put(self, at: Expr, element: Element) -> None:
        self._values.write(at, element[0])
        self._places.write(at, element[1])

    def _get(self, at: Expr) -> Element:
        return self._values.read(at), self._places.read(at)

    def order(self) -> None:
        """Make a heap of elements in any order."""
        half = bind(tirx.truncdiv(self._size.get(), index_constant(2)))
        with self._pull.loops(half) as (i,):
            at = bind(half - index_constant(1) - i)
            self._sink(at, self._get(at))

    def take(self) -> Element:
        """The first element, which leaves the heap."""
        first = self._get(index_constant(0))
        last = bind(tirx.max(self._size.get() - index_constant(1), index_constant(0)))
        self._size.set(last)
        self._sink(index_constant(0), self._get(last))
        return first

    def _sink(self, at: Expr, element: Element) -> None:
        """Put an element at a free place, or below the children that come before it."""
        hole = Cell(at)
        with self._while_child(hole) as child:
            better = self._first_child(child)
            other = self._get(better)
            with self._pull.when(self._before(other, element)):
                self.put(hole.get(), other)
                hole.set(better)
            with self._pull.when(tirx.Not(self._before(other, element))):
                self._searching.set(index_constant(0))
        self.put(hole.get(), element)

    @contextmanager
    def _while_child(self, hole: Cell) -> Iterator[Expr]:
        """Repeats with the left child of the hole, while there is one and the search goes on."""
        self._searching = Cell(index_constant(1))
        child = hole.get() * index_constant(2) + index_constant(1)
        with T.While(tirx.And(child < self._size.get(), self._searching.get() > index_constant(0))), self._pull.scope():
            yield bind(child)

    def _first_child(self, left: Expr) -> Expr:
        """The child that comes first, of the left one and the right one, if there is one."""
        chosen = Cell(left)
        right = bind(left + index_constant(1))
        with (
            self._pull.when(right < self._size.get()),
            self._pull.when(self._before(self._get(right), self._get(left))),
        ):
            chosen.set(right)
        return bind(chosen.get())

    def _before(self, one: Element, other: Element) -> Expr:
        """Whether an element comes before another; a NaN comes last, as numpy sorts it."""
        ahead = one[0] > other[0] if self._largest else one[0] < other[0]
        level = tirx.EQ(one[0], other[0])
        if one[0].ty.dtype.startswith("float"):
            ahead = tirx.Or(ahead, tirx.And(tirx.isnan(other[0]), tirx.Not(tirx.isnan(one[0]))))
            level = tirx.Or(level, tirx.And(tirx.isnan(other[0]), tirx.isnan(one[0])))
        return tirx.Or(ahead, tirx.And(level, one[1] < other[1]))
