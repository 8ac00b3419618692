"""Trees of element-wise nodes and views: one pass over the result, each element computed from reads of the parameters.

Views cost nothing but strides: axes that all operands run through alike become one loop, the innermost loop runs a
vector at a time, and what does not change along it is computed before it.
"""

from __future__ import annotations

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels.affine import NotAffine, Space, flat
from nomul.backends.kernels.nest import Part, collapsed, grain, plan_tiles
from nomul.backends.kernels.part_code import PartCode, emit_parts
from nomul.backends.kernels.terms import Lookup, Read, Walk, no_heavy_node, plain_results, with_splits
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    reason = plain_results(group, heavy=0)
    if reason is not None:
        return reason
    try:
        whole_result(group)
    except NotAffine as error:
        return str(error)
    return None


@kernel("", accepts=refusal, rank=20)
def tree(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements."""
    return build(group, target, [whole_result(group)])


def whole_result(group: Group) -> Part:
    """The result as one box. Raises NotAffine."""
    (result,) = group.func.returns

    def make(space: Space) -> Part:
        axes = space.axes()
        term = Walk(group, space, no_heavy_node).at(result, axes)
        return Part(space, term, flat(axes, result.shape, len(space.sizes)))

    return with_splits(Space.of(result.shape), make)


def build(group: Group, target: Target, parts: list[Part]) -> Built:
    """A kernel that computes parts one after the other."""
    plans = [plan_tiles(collapsed(part.space.sizes, part.forms), group.ranges) for part in parts]
    with KernelFrame(group, target) as frame:
        emit_parts(frame, [PartCode(frame, part, plan) for part, plan in zip(parts, plans, strict=True)])
    tiles = plans[0].tiles
    for plan in plans[1:]:
        tiles = tiles + plan.tiles
    return Built(
        frame.function,
        tiles=tiles,
        grain=grain(max(plan.elements(group.ranges) for plan in plans)),
        inplace=shareable(group, parts[0]) if len(parts) == 1 else (),
    )


def shareable(group: Group, part: Part) -> tuple[int, ...]:
    """Parameters of the result's type of which an element is read only where it is replaced."""
    (result,) = group.func.returns
    elsewhere = {term.param for term in part.terms if isinstance(term, Read) and term.place != part.place}
    elsewhere |= {term.param for term in part.terms if isinstance(term, Lookup)}
    return tuple(
        position
        for position, param in enumerate(group.func.params)
        if param.type == result.type and position not in group.weights and param not in elsewhere
    )
