"""Recognises values that count: positions, row numbers, offsets into a flat table. Gathers by them become views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nomul.frontend.common import affine_bounds
from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import NOTHING, ONE, Shape, row_major


@dataclass(frozen=True)
class Counter:
    """Integers: the element at index i is offset + sum of steps[k] * i[k]. An axis of size 1 has step 0."""

    shape: Shape
    steps: Shape
    offset: Dim

    @staticmethod
    def of(shape: Shape, steps: Shape, offset: Dim) -> Counter:
        kept = tuple(NOTHING if size == ONE else step for size, step in zip(shape, steps, strict=True))
        return Counter(shape, kept, offset)

    @property
    def is_uniform(self) -> bool:
        return all(step == NOTHING for step in self.steps)

    @property
    def counts_on(self) -> bool:
        """Whether the elements in row-major order are offset, offset + 1, offset + 2, ..."""
        expected = row_major(self.shape)
        return all(size == ONE or step == own for size, step, own in zip(self.shape, self.steps, expected, strict=True))

    def bounds(self, ranges: Mapping[str, Range]) -> tuple[float, float]:
        """An enclosure of all elements."""
        return affine_bounds(self.offset, self.shape, self.steps, ranges)

    def wide(self, shape: Shape) -> Counter:
        """Broadcast to a shape of at least this rank."""
        extra = (NOTHING,) * (len(shape) - len(self.shape))
        return Counter.of(shape, extra + self.steps, self.offset)


def counter(value: Value | None, depth: int = 32) -> Counter | None:
    """The counter that an integer value is, by the nodes that made it; None where this is not certain."""
    if isinstance(value, Constant) and value.dtype.is_integer:
        return Counter((), (), Dim.of(int(value.value)))
    if value is None or value.producer is None or not value.dtype.is_integer or depth == 0:
        return None
    node = value.producer
    if node.op == "make.iota":
        return Counter.of(value.shape, (Dim.of(node.attrs["step"]),), node.attrs["start"])
    if node.op == "make.size":
        return Counter((), (), node.attrs["size"])
    if node.op == "make.full":
        return Counter(value.shape, (NOTHING,) * value.type.rank, Dim.of(int(node.attrs["value"])))
    inner = counter(node.args[0], depth - 1) if node.args else None
    return None if inner is None else _moved(node, inner) or _computed(node, inner, depth)


def _moved(node: Node, inner: Counter) -> Counter | None:
    """Through a view or a conversion."""
    shape = node.results[0].shape
    if node.op == "ew.cast":
        return inner
    if node.op == "view.expand":
        return inner.wide(shape)
    if node.op != "view.reshape":
        return None
    if inner.is_uniform:
        return Counter(shape, (NOTHING,) * len(shape), inner.offset)
    steps = iter([step for size, step in zip(inner.shape, inner.steps, strict=True) if size != ONE])
    sizes = [size for size in inner.shape if size != ONE]
    if sizes != [size for size in shape if size != ONE]:
        return None
    return Counter.of(shape, tuple(NOTHING if size == ONE else next(steps) for size in shape), inner.offset)


def _computed(node: Node, left: Counter, depth: int) -> Counter | None:
    """Through a sum, a difference, or a product with one number."""
    if node.op not in ("ew.add", "ew.sub", "ew.mul"):
        return None
    right = counter(node.args[1], depth - 1)
    if right is None:
        return None
    shape = node.results[0].shape
    if node.op != "ew.mul":
        return combined(left, right, shape, 1 if node.op == "ew.add" else -1)
    left, right = left.wide(shape), right.wide(shape)
    one, other = (left, right) if left.is_uniform else (right, left)
    if not one.is_uniform:
        return None
    return Counter.of(shape, tuple(step * one.offset for step in other.steps), other.offset * one.offset)


def combined(left: Counter, right: Counter, shape: Shape, factor: int) -> Counter:
    """left + factor * right, of the given (broadcast) shape."""
    left, right = left.wide(shape), right.wide(shape)
    steps = tuple(a + b * factor for a, b in zip(left.steps, right.steps, strict=True))
    return Counter.of(shape, steps, left.offset + right.offset * factor)
