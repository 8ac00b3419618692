"""Reductions over any axes, with the nodes before and behind them. Elements that are neighbours in memory belong to
neighbouring results (then vectors run across them) or to one result (then along it)."""

from __future__ import annotations

from collections.abc import Sequence

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels.affine import Form, NotAffine, Space, flat
from nomul.backends.kernels.fold_code import COLUMNS, Across, Along, Reduction
from nomul.backends.kernels.folds import REDUCTIONS, fold_of
from nomul.backends.kernels.nest import TILE, Loop, Part, TilePlan, collapsed, grain, plan_tiles, typical
from nomul.backends.kernels.part_code import PartCode, emit_parts
from nomul.backends.kernels.terms import Axes, Given, Read, Term, Walk, no_heavy_node, with_splits
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.ir.dim import product
from nomul.ir.graph import Node
from nomul.ir.op import Kind
from nomul.ir.shapes import NOTHING, ONE


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    if len(group.func.returns) != 1:
        return "it has several results"
    if sum(node.spec.kind in (Kind.ANCHOR, Kind.OTHER) for node in group.func.nodes) != 1:
        return "it has several heavy nodes"
    assert group.anchor is not None
    if group.func.returns[0].shape != group.anchor.result.shape:
        return "the result is not of the reduction's shape"
    try:
        _loops(group)
    except NotAffine as error:
        return str(error)
    return None


def folded(group: Group, target: Target) -> Built:
    """Tiles of up to 32 results side by side, or of results with about 4096 elements."""
    reduction, kept, along = _loops(group)
    if along in reduction.loops:
        size = typical(product([loop.size for loop in reduction.loops]), group.ranges)
        plan = plan_tiles([*kept, Loop(ONE, None)], group.ranges, max(1, TILE // max(1, size)))
    else:
        chunk = COLUMNS if along.size.bounds(group.ranges)[1] > COLUMNS else None
        plan = TilePlan((*(loop for loop in kept if loop is not along), along), len(kept) - 1, chunk)
        size = typical(reduction.count, group.ranges)
    with KernelFrame(group, target) as frame:
        rows = (Along if along in reduction.loops else Across)(frame, reduction, along)
        emit_parts(frame, [PartCode(frame, plan, reduction.forms, rows)])
    return Built(frame.function, tiles=plan.tiles, grain=grain(size * plan.elements(group.ranges)))


def _loops(group: Group) -> tuple[Reduction, list[Loop], Loop]:
    """The reduction, the loops over results, and the loop of either kind for vectors. Raises NotAffine."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[0] is not None
    shape = anchor.args[0].shape
    elements, results, given = with_splits(Space.of(shape), lambda space: _parts(group, anchor, space))
    space, axes = elements.space, _reduced(anchor)
    kinds = [space.axis_of(loop) in axes for loop in range(len(space.sizes))]
    apart = [loop for loop in range(1, len(kinds)) if kinds[loop] != kinds[loop - 1]]
    forms = [*elements.forms, *results.forms]
    loops = collapsed(space.sizes, forms, apart)
    inner = tuple(loop for loop in loops if loop.axis is not None and kinds[loop.axis])
    count = product([shape[axis] for axis in axes])
    reduction = Reduction(fold_of(anchor), elements, results, given, inner, count)
    return reduction, [loop for loop in loops if loop not in inner], _vector_loop(elements, loops)


def _reduced(anchor: Node) -> tuple[int, ...]:
    return (anchor.attrs["axis"],) if "axis" in anchor.attrs else anchor.attrs["axes"]


def _vector_loop(elements: Part, loops: Sequence[Loop]) -> Loop:
    """The loop along which most operands are contiguous, the innermost of several."""
    reads = [term.place for term in elements.terms if isinstance(term, Read)]
    return max(reversed(loops), key=lambda loop: sum(loop.step(place) == ONE for place in reads))


def _parts(group: Group, anchor: Node, space: Space) -> tuple[Part, Part, Given]:
    """What is folded, and the results with the nodes behind."""
    (result,) = group.func.returns
    operand, reduced = anchor.args[0], _reduced(anchor)
    assert operand is not None
    axes, loops = space.axes(), len(space.sizes)
    still = Form(NOTHING, (NOTHING,) * loops)
    kept = tuple(still if axis in reduced else form for axis, form in enumerate(axes))
    if not anchor.attrs["keepdims"]:
        kept = tuple(form for axis, form in enumerate(kept) if axis not in reduced)
    given = Given(anchor.result)

    def at_result(walk: Walk, node: Node, place: Axes) -> Term:
        if node is not anchor or place != kept:
            raise NotAffine("the reduction is read in another order")
        return given

    element = Walk(group, space, no_heavy_node).at(operand, axes)
    finished = Walk(group, space, at_result).at(result, kept)
    place = axes[reduced[0]] if len(reduced) == 1 else still
    return Part(space, element, place), Part(space, finished, flat(kept, result.shape, loops)), given


for _op in REDUCTIONS:
    kernel(_op, accepts=refusal, rank=20)(folded)
