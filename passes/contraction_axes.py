"""Named axes: which labels each axis of a value runs over, how views and products join them and take them apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nomul.ir.dim import Dim
from nomul.ir.graph import Node
from nomul.ir.shapes import ONE, Shape


@dataclass(eq=False)
class Label:
    """What an axis counts; labels that were found to be one have one root."""

    size: Dim
    same: Label | None = None

    def root(self) -> Label:
        return self if self.same is None else self.same.root()


Parts = dict[Label, tuple["Label", ...]]  # what labels are taken apart into, the outer part first
Axes = tuple[tuple[Label, ...], ...]  # the labels that each axis of a value runs over; none: the axis is 1 or repeats


class Misfit(Exception):
    """Axes do not belong together."""


def fresh(size: Dim) -> tuple[Label, ...]:
    return () if size == ONE else (Label(size),)


def expanded(axes: Axes, shape: Shape) -> Axes:
    """The axes of a value that is repeated to a shape."""
    wide = ((),) * (len(shape) - len(axes)) + axes
    return tuple(axis or fresh(size) for axis, size in zip(wide, shape, strict=True))


def reduced(axes: Axes, node: Node) -> tuple[list[Label], Axes]:
    """(the labels over which a reduction of a value with these axes goes, the axes of its result)."""
    gone = node.attrs["axes"]
    kept = [() if axis in gone else labels for axis, labels in enumerate(axes)]
    left = kept if node.attrs["keepdims"] else [kept[axis] for axis in range(len(kept)) if axis not in gone]
    return [label for axis in gone for label in axes[axis]], tuple(left)


def merged(left: tuple[Label, ...], right: tuple[Label, ...]) -> tuple[Label, ...]:
    """Labels of two axes that are one. Raises Misfit."""
    if [label.size for label in left] != [label.size for label in right]:
        raise Misfit
    for one, other in zip(left, right, strict=True):
        if one.root() is not other.root():
            other.root().same = one.root()
    return left


def aligned(left: Axes, right: Axes) -> Axes:
    """The axes of two values that are broadcast against each other."""
    rank = max(len(left), len(right))
    wide = [((),) * (rank - len(axes)) + tuple(axes) for axes in (left, right)]
    return tuple(merged(one, other) if one and other else one or other for one, other in zip(*wide, strict=True))


def refined(pairs: Iterable[tuple[tuple[Label, ...], tuple[Label, ...]]]) -> tuple[Parts, Parts]:
    """What labels of axes that run side by side are taken apart into so that both axes have as many. Raises Misfit."""
    parts: tuple[Parts, Parts] = ({}, {})
    for pair in pairs:
        for side, (one, other) in enumerate((pair, pair[::-1])):
            if 0 < len(one) < len(other):
                roots = [label.root() for label in one]
                parts[side].update(regrouped(roots, tuple(label.size for label in other))[1])
    return parts


def side_by_side(left: Axes, right: Axes) -> list[tuple[tuple[Label, ...], tuple[Label, ...]]]:
    """The axes of two values that meet where they are broadcast against each other."""
    return list(zip(left[::-1], right[::-1], strict=False))


def regrouped(labels: Sequence[Label], shape: Shape) -> tuple[Axes, Parts]:
    """(the labels in order on axes of another shape, what becomes of those that lie on two). Raises Misfit."""
    axes, rest = [], list(labels)
    parts: Parts = {}
    for size in shape:
        taken: list[Label] = []
        total = ONE
        while total != size:
            if not rest:
                raise Misfit
            label = rest.pop(0)
            if label not in parts and _is_larger(label.size, size, total):
                first = size.divide_exactly(total)
                parts[label] = (Label(first), Label(label.size.divide_exactly(first)))
            if label in parts:
                rest[:0] = parts[label]
                continue
            taken.append(label)
            total = total * label.size
        axes.append(tuple(taken))
    if rest:
        raise Misfit
    return tuple(axes), parts


def _is_larger(size: Dim, wanted: Dim, total: Dim) -> bool:
    """Whether a size is a known multiple, other than once, of what is missing from total to wanted."""
    if not total.divides(wanted):
        return False
    missing = wanted.divide_exactly(total)
    return size != missing and missing.divides(size)


def parted(axes: Axes, parts: Parts) -> Axes:
    def inner(label: Label) -> tuple[Label, ...]:
        root = label.root()
        return tuple(found for part in parts[root] for found in inner(part)) if root in parts else (root,)

    return tuple(tuple(part for label in axis for part in inner(label)) for axis in axes)
