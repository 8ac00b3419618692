"""view.concat: a box of the result for each operand, with the nodes before and behind evaluated in it."""

from __future__ import annotations

from nomul.backends.group import Group
from nomul.backends.kernels import boxes
from nomul.backends.kernels.terms import Axes, Special, Term, Walk
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import NOTHING


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return boxes.refusal(group, 1, _boxes)


@kernel("view.concat", accepts=refusal, rank=20)
def joined(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements, of one operand after the other."""
    return boxes.build(group, target, _boxes(group))


def _boxes(group: Group) -> list[boxes.Box]:
    node = boxes.shaped_anchor(group)
    axis, shape = node.attrs["axis"], node.result.shape
    found, start = [], NOTHING
    for operand in node.args:
        assert operand is not None
        starts = tuple(start if k == axis else NOTHING for k in range(len(shape)))
        if operand.shape[axis] != NOTHING:
            found.append(boxes.Box(starts, operand.shape, _operand(operand, axis, start)))
        start = start + operand.shape[axis]
    return found


def _operand(operand: Value, axis: int, start: Dim) -> Special:
    def element(walk: Walk, node: Node, axes: Axes) -> Term:
        return walk.at(operand, (*axes[:axis], axes[axis].shifted(-start), *axes[axis + 1 :]))

    return element
