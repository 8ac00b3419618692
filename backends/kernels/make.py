"""make.full, make.iota and make.size, with the nodes behind: results that come from places alone."""

from __future__ import annotations

from nomul.backends.group import Group
from nomul.backends.kernels import boxes
from nomul.backends.kernels.affine import Form
from nomul.backends.kernels.terms import Axes, Count, Literal, Special, Term, Walk
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.ir.graph import Constant, Node
from nomul.ir.shapes import NOTHING
from nomul.ir.types import DType


def _full(walk: Walk, node: Node, axes: Axes) -> Term:
    return Literal(Constant(node.attrs["value"], node.attrs["dtype"]))


def _iota(walk: Walk, node: Node, axes: Axes) -> Term:
    return Count(axes[0].times(node.attrs["step"]).shifted(node.attrs["start"]), node.attrs["dtype"])


def _size(walk: Walk, node: Node, axes: Axes) -> Term:
    return Count(Form(node.attrs["size"], (NOTHING,) * len(walk.space.sizes)), DType.I64)


_SPECIAL: dict[str, Special] = {"make.full": _full, "make.iota": _iota, "make.size": _size}


def _boxes(group: Group) -> list[boxes.Box]:
    assert group.anchor is not None
    return [boxes.Box.whole(group, _SPECIAL[group.anchor.op])]


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return boxes.refusal(group, 1, _boxes)


def made(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements."""
    return boxes.build(group, target, _boxes(group))


for _op in _SPECIAL:
    kernel(_op, accepts=refusal, rank=20)(made)
