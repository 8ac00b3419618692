"""Affine places: which element of a value belongs to the indices of a kernel's loops, followed through views.

A `Space` is the loops over a box of some shape; the place of an element of a value on each of its axes is a `Form` of
the loop indices. A reshape that joins what a loop runs over needs that loop in two: `NeedsSplit` asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Node
from nomul.ir.shapes import NOTHING, ONE, Shape, row_major


class NotAffine(Exception):
    """Places of a value are no affine function of loop indices; the text says where."""


class NeedsSplit(Exception):
    """Loop number `loop` must become two, the inner one of size `inner`."""

    def __init__(self, loop: int, inner: Dim) -> None:
        super().__init__(f"loop {loop} into [..., {inner}]")
        self.loop = loop
        self.inner = inner


@dataclass(frozen=True)
class Form:
    """offset + the sum of steps[k] * index of loop k."""

    offset: Dim
    steps: tuple[Dim, ...]

    def __add__(self, other: Form) -> Form:
        return Form(self.offset + other.offset, tuple(a + b for a, b in zip(self.steps, other.steps, strict=True)))

    def times(self, factor: Dim | int) -> Form:
        return Form(self.offset * factor, tuple(step * factor for step in self.steps))

    def shifted(self, by: Dim | int) -> Form:
        return Form(self.offset + by, self.steps)


@dataclass(frozen=True)
class Space:
    """The loops over a box. parts: for each axis of it the sizes of its loops, outermost first; none for size 1."""

    parts: tuple[tuple[Dim, ...], ...]

    @staticmethod
    def of(shape: Sequence[Dim]) -> Space:
        return Space(tuple(() if size == ONE else (size,) for size in shape))

    @cached_property
    def sizes(self) -> Shape:
        return tuple(size for part in self.parts for size in part)

    def axis_of(self, loop: int) -> int:
        """The axis of the box that a loop belongs to."""
        return [axis for axis, part in enumerate(self.parts) for _ in part][loop]

    def axes(self) -> tuple[Form, ...]:
        """The index on each axis of the box."""
        forms, first = [], 0
        for part in self.parts:
            steps = [NOTHING] * len(self.sizes)
            step = ONE
            for loop in reversed(range(first, first + len(part))):
                steps[loop] = step
                step = step * self.sizes[loop]
            first += len(part)
            forms.append(Form(NOTHING, tuple(steps)))
        return tuple(forms)

    def split(self, need: NeedsSplit) -> Space:
        """Raises NotAffine where the loop's size is no multiple."""
        axis = self.axis_of(need.loop)
        place = need.loop - sum(len(part) for part in self.parts[:axis])
        part = list(self.parts[axis])
        part[place : place + 1] = [_quotient(part[place], need.inner), need.inner]
        return Space((*self.parts[:axis], tuple(part), *self.parts[axis + 1 :]))


def flat(axes: Sequence[Form], shape: Sequence[Dim], loops: int) -> Form:
    """The row-major place of an element with this index on each axis."""
    total = Form(NOTHING, (NOTHING,) * loops)
    for form, stride in zip(axes, row_major(shape), strict=True):
        total = total + form.times(stride)
    return total


def through(node: Node, axes: tuple[Form, ...]) -> tuple[Form, ...]:
    """Places on the axes of a transpose's, slice's or expand's operand. axes: of its result."""
    source = node.args[0]
    assert source is not None
    return _STEPS[node.op](node, axes, source.shape)


def _transpose(node: Node, axes: tuple[Form, ...], shape: Shape) -> tuple[Form, ...]:
    perm = node.attrs["perm"]
    return tuple(axes[perm.index(axis)] for axis in range(len(perm)))


def _slice(node: Node, axes: tuple[Form, ...], shape: Shape) -> tuple[Form, ...]:
    axis = node.attrs["axis"]
    moved = axes[axis].times(node.attrs["step"]).shifted(node.attrs["start"])
    return (*axes[:axis], moved, *axes[axis + 1 :])


def _expand(node: Node, axes: tuple[Form, ...], shape: Shape) -> tuple[Form, ...]:
    return broadcast(axes, shape)


_STEPS: dict[str, Callable[[Node, tuple[Form, ...], Shape], tuple[Form, ...]]] = {
    "view.transpose": _transpose,
    "view.slice": _slice,
    "view.expand": _expand,
}


def broadcast(axes: tuple[Form, ...], shape: Shape) -> tuple[Form, ...]:
    """The place in an operand of `shape` for a place in the result that it broadcasts to."""
    tail = axes[len(axes) - len(shape) :]
    return tuple(form.times(0) if size == ONE else form for form, size in zip(tail, shape, strict=True))


def unflatten(place: Form, shape: Shape, sizes: Shape, ranges: Mapping[str, Range]) -> tuple[Form, ...]:
    """The index on each axis of `shape` for a row-major place. sizes: of the loops.

    Raises NeedsSplit where a loop runs over a part of one axis and into the next, NotAffine where nothing helps."""
    shares = [_shares(step, shape) for step in (place.offset, *place.steps)]
    axes = [Form(offset, tuple(steps)) for offset, *steps in zip(*shares, strict=True)]
    if flat(axes, shape, len(sizes)) != place:
        raise NotAffine("a reshape of a slice")
    for axis, form in enumerate(axes):
        _check_reach(form, shape[axis], sizes, ranges)
    return tuple(axes)


def _shares(step: Dim, shape: Shape) -> tuple[Dim, ...]:
    """A flat step as steps on each axis, as much as possible on outer ones."""
    shares = []
    for size, stride in zip(shape, row_major(shape), strict=True):
        whole = NOTHING if size == ONE else _whole_part(step, stride)
        shares.append(whole)
        step = step - whole * stride
    return tuple(shares)


def _whole_part(step: Dim, stride: Dim) -> Dim:
    """The multiple of `stride` in a step, looked for as a whole and then in each of its terms."""
    if stride.divides(step):
        return step.divide_exactly(stride)
    total, number = NOTHING, stride.value
    for monomial, factor in step.terms:
        term = Dim({monomial: factor})
        if stride.divides(term):
            total = total + term.divide_exactly(stride)
        elif not monomial and number is not None and factor > 0:
            total = total + factor // number
    return total


def _check_reach(form: Form, size: Dim, sizes: Shape, ranges: Mapping[str, Range]) -> None:
    """The form stays inside [0, size), or one of its loops must be split so that it does."""
    low, high = form.offset, form.offset
    for step, count in zip(form.steps, sizes, strict=True):
        reach, sign = step * (count - 1), step.bounds(ranges)
        if sign[0] < 0 < sign[1]:
            raise NotAffine("a step of unknown sign")
        low, high = (low, high + reach) if sign[0] >= 0 else (low + reach, high)
    if low.bounds(ranges)[0] < 0:
        raise NotAffine("a reshape of a slice")
    if (size - 1 - high).bounds(ranges)[0] >= 0:
        return
    for loop, step in enumerate(form.steps):
        if step != NOTHING and step.divides(size):
            inner = size.divide_exactly(step)
            if inner not in (ONE, sizes[loop]) and inner.divides(sizes[loop]):
                raise NeedsSplit(loop, inner)
    raise NotAffine("a reshape whose sizes do not divide")


def _quotient(dim: Dim, divisor: Dim) -> Dim:
    try:
        return dim.divide_exactly(divisor)
    except ValueError:
        raise NotAffine(f"a loop of {dim} cannot be split by {divisor}") from None
