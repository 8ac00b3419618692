"""index.gather: rows named by indices, with the nodes behind. An index is read once a row; rows go by vectors."""

from __future__ import annotations

from nomul.backends.group import Group
from nomul.backends.kernels import boxes
from nomul.backends.kernels.affine import Form, NotAffine, flat
from nomul.backends.kernels.terms import Axes, Lookup, Term, Walk
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.ir.graph import Node
from nomul.ir.shapes import NOTHING, row_major


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return boxes.refusal(group, 1, _boxes)


def _boxes(group: Group) -> list[boxes.Box]:
    return [boxes.Box.whole(group, _gathered)]


def _gathered(walk: Walk, node: Node, axes: Axes) -> Term:
    """An element of index.gather's result."""
    x, indices = node.args
    assert x is not None and indices is not None
    if x.producer is not None:
        raise NotAffine("rows are gathered from a value made inside the group")
    axis = node.attrs["axis"]
    behind = axis + len(indices.shape)
    index = walk.at(indices, axes[axis:behind])
    loops = len(walk.space.sizes)
    row_start = Form(NOTHING, (NOTHING,) * loops)
    place = flat((*axes[:axis], row_start, *axes[behind:]), x.shape, loops)
    return Lookup(walk.plain(x), place, index, x.shape[axis], row_major(x.shape)[axis])


def rows(group: Group, target: Target) -> Built:
    """Tiles of about 4096 elements."""
    return boxes.build(group, target, _boxes(group))


for _encoding in (None, "f16", "bf16"):
    kernel("index.gather", encoding=_encoding, accepts=refusal, rank=20)(rows)
