"""Kernels that compute their only result box by box: what a box holds, and the function that runs through them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels.affine import NotAffine, Space, flat
from nomul.backends.kernels.nest import Part, TilePlan, collapsed, grain, plan_tiles
from nomul.backends.kernels.part_code import Code, Elements, PartCode, emit_parts
from nomul.backends.kernels.terms import Lookup, Read, Special, Walk, with_splits
from nomul.backends.kernels.transpose import CrossCode, CrossPlan, plan_crosswise
from nomul.backends.registry import Built
from nomul.backends.target import Target
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.op import Kind
from nomul.ir.shapes import NOTHING


@dataclass(frozen=True)
class Box:
    """A part of the result: first index and size on each axis.  special: what the heavy node's result is in it."""

    starts: tuple[Dim, ...]
    sizes: tuple[Dim, ...]
    special: Special

    @staticmethod
    def whole(group: Group, special: Special) -> Box:
        shape = group.func.returns[0].shape
        return Box((NOTHING,) * len(shape), shape, special)


def part_of(group: Group, box: Box) -> Part:
    """The elements of a box. Raises NotAffine."""
    (result,) = group.func.returns

    def make(space: Space) -> Part:
        axes = tuple(form.shifted(start) for form, start in zip(space.axes(), box.starts, strict=True))
        term = Walk(group, space, box.special).at(result, axes)
        return Part(space, term, flat(axes, result.shape, len(space.sizes)))

    return with_splits(Space.of(box.sizes), make)


def shaped_anchor(group: Group) -> Node:
    """The heavy node of a group whose result has its shape. Raises NotAffine."""
    node = group.anchor
    assert node is not None
    if group.func.returns[0].shape != node.result.shape:
        raise NotAffine(f"the result has not the shape of the {node.op}")
    return node


def refusal(group: Group, heavy: int, boxes: Callable[[Group], Sequence[Box]]) -> str | None:
    """Why a group with so many heavy nodes is not served, or None."""
    reason = _not_plain(group, heavy)
    if reason is not None:
        return reason
    try:
        for box in boxes(group):
            part_of(group, box)
    except NotAffine as error:
        return str(error)
    return None


def _not_plain(group: Group, heavy: int) -> str | None:
    if len(group.func.returns) != 1:
        return "it has several results"
    if group.func.returns[0].producer is None:
        return "it computes nothing"
    kinds = [node.spec.kind for node in group.func.nodes]
    if sum(kind in (Kind.ANCHOR, Kind.OTHER) for kind in kinds) != heavy:
        return "it has several heavy nodes"
    return None


def build(
    group: Group,
    target: Target,
    boxes: Sequence[Box],
    fields: Mapping[int, Sequence[str]] | None = None,
    prepare: Callable[[KernelFrame], None] = lambda frame: None,
) -> Built:
    """A kernel whose tiles are those of one box after the other.

    fields: of parameters that the kernel declares itself (`KernelFrame`), which `prepare` does."""
    parts = [part_of(group, box) for box in boxes]
    plans = [_plan(group, part) for part in parts]
    with KernelFrame(group, target, fields) as frame:
        prepare(frame)
        emit_parts(frame, [_code(frame, part, plan) for part, plan in zip(parts, plans, strict=True)])
    tiles = Dim.of(0)
    for plan in plans:
        tiles = tiles + plan.tiles
    return Built(
        frame.function,
        tiles=tiles,
        grain=grain(max(plan.elements(group.ranges) for plan in plans)),
        scratch=Dim.of(max(plan.scratch for plan in plans)),
        inplace=shareable(group, parts[0]) if len(parts) == 1 else (),
    )


def _plan(group: Group, part: Part) -> TilePlan | CrossPlan:
    loops = collapsed(part.space.sizes, part.forms)
    return plan_crosswise(part, loops) or plan_tiles(loops, group.ranges)


def _code(frame: KernelFrame, part: Part, plan: TilePlan | CrossPlan) -> Code:
    if isinstance(plan, CrossPlan):
        return CrossCode(frame, part, plan)
    return PartCode(frame, plan, part.forms, Elements(frame, part, plan.loops[-1]))


def shareable(group: Group, part: Part) -> tuple[int, ...]:
    """Parameters of the result's type of which an element is read only where it is replaced."""
    (result,) = group.func.returns
    elsewhere: set[Value] = {term.param for term in part.terms if isinstance(term, Lookup)}
    elsewhere |= {term.param for term in part.terms if isinstance(term, Read) and term.place != part.place}
    return tuple(
        position
        for position, param in enumerate(group.func.params)
        if param.type == result.type and position not in group.weights and param not in elsewhere
    )
