"""view.pad: the operand's box and those of the pads around it, each of which reads the operand along straight lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from nomul.backends.group import Group
from nomul.backends.kernels import boxes
from nomul.backends.kernels.affine import Form, NotAffine
from nomul.backends.kernels.terms import Axes, Literal, Special, Term, Walk
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node
from nomul.ir.shapes import NOTHING

_MOST_AXES = 2  # with pads by reflection and the like: the number of boxes is 3 to the power of it


@dataclass(frozen=True)
class _Range:
    """Indices [start, start + size) on one axis of the result. source: those in the operand, None in a constant."""

    start: Dim
    size: Dim
    source: Callable[[Form], Form] | None


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return boxes.refusal(group, 1, _boxes)


@kernel("view.pad", accepts=refusal, rank=20)
def bordered(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements, of one box after the other."""
    return boxes.build(group, target, _boxes(group))


def _boxes(group: Group) -> list[boxes.Box]:
    node = boxes.shaped_anchor(group)
    ranges = [_ranges(group, node, axis) for axis in range(len(node.result.shape))]
    if node.attrs["mode"] == "constant":
        return [_box(node, parts) for parts in _slabs(ranges)]
    if sum(len(parts) > 1 for parts in ranges) > _MOST_AXES:
        raise NotAffine("pads on more than two axes")
    return [_box(node, parts) for parts in product(*ranges)]


def _box(node: Node, parts: tuple[_Range, ...]) -> boxes.Box:
    return boxes.Box(tuple(part.start for part in parts), tuple(part.size for part in parts), _element(parts))


def _element(parts: tuple[_Range, ...]) -> Special:
    def element(walk: Walk, node: Node, axes: Axes) -> Term:
        x = node.args[0]
        assert x is not None
        places = [part.source(form) for part, form in zip(parts, axes, strict=True) if part.source is not None]
        if len(places) < len(parts):
            return Literal(Constant(node.attrs["value"], x.dtype))
        return walk.at(x, tuple(places))

    return element


def _slabs(ranges: list[list[_Range]]) -> Iterator[tuple[_Range, ...]]:
    """The operand's box, and on each axis the pads over the whole extent of the axes behind it."""
    inner = [next(part for part in parts if part.source is not None) for parts in ranges]
    yield tuple(inner)
    for axis, parts in enumerate(ranges):
        for pad in parts:
            if pad.source is None:
                yield (*inner[:axis], pad, *(_whole(behind) for behind in ranges[axis + 1 :]))


def _whole(parts: list[_Range]) -> _Range:
    total = NOTHING
    for part in parts:
        total = total + part.size
    return _Range(NOTHING, total, None)


def _ranges(group: Group, node: Node, axis: int) -> list[_Range]:
    """The operand's indices on one axis, and the pads before and after it."""
    x = node.args[0]
    assert x is not None
    size, before, after = x.shape[axis], node.attrs["before"][axis], node.attrs["after"][axis]
    low, high = _SOURCES[node.attrs["mode"]](size, before)
    _check_reach(group, node.attrs["mode"], size, (before, after))
    parts = [_Range(before, size, lambda form: form.shifted(-before))]
    if before != NOTHING:
        parts.append(_Range(NOTHING, before, low))
    if after != NOTHING:
        parts.append(_Range(before + size, after, high))
    return parts


def _check_reach(group: Group, mode: str, size: Dim, pads: tuple[Dim, Dim]) -> None:
    """A pad by reflection is shorter than the operand, one that wraps around not longer."""
    spare = {"reflect": 1, "wrap": 0}.get(mode)
    if spare is not None and any((size - spare - pad).bounds(group.ranges)[0] < 0 for pad in pads):
        raise NotAffine("a pad may be longer than the operand")


Sources = tuple[Callable[[Form], Form] | None, Callable[[Form], Form] | None]


def _constant(size: Dim, before: Dim) -> Sources:
    return None, None


def _reflect(size: Dim, before: Dim) -> Sources:
    return (
        lambda form: form.times(-1).shifted(before),
        lambda form: form.times(-1).shifted(before + (size - 1) * 2),
    )


def _edge(size: Dim, before: Dim) -> Sources:
    return lambda form: form.times(0), lambda form: form.times(0).shifted(size - 1)


def _wrap(size: Dim, before: Dim) -> Sources:
    return lambda form: form.shifted(size - before), lambda form: form.shifted(-before - size)


_SOURCES: dict[str, Callable[[Dim, Dim], Sources]] = {
    "constant": _constant,
    "reflect": _reflect,
    "edge": _edge,
    "wrap": _wrap,
}
