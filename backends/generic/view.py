"""Views, concatenation and padding: an element comes from one place of an operand."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind
from nomul.backends.frame import index_constant, split_index
from nomul.backends.generic import element
from nomul.backends.generic.pull import Cell, Pull, replaced
from nomul.ir.dim import Dim
from nomul.ir.graph import Node
from nomul.ir.shapes import row_major


def operand_shape(node: Node, position: int = 0) -> tuple[Dim, ...]:
    value = node.args[position]
    assert value is not None
    return value.shape


@element("view.reshape")
def reshape(pull: Pull, node: Node, index: Index) -> Expr:
    return pull.operand(node, 0, reshaped(pull, index, node.result.shape, operand_shape(node)))


def reshaped(pull: Pull, index: Index, new: Sequence[Dim], old: Sequence[Dim]) -> Index:
    """The index in shape `old` of the element that `index` names in shape `new`; equal outer axes stay as they are."""
    same = 0
    while same < min(len(new), len(old)) and new[same] == old[same]:
        same += 1
    flat = bind(pull.frame.dot(index[same:], [pull.size(stride) for stride in row_major(new[same:])]))
    return (*index[:same], *split_index(flat, [pull.size(size) for size in old[same:]]))


@element("view.transpose")
def transpose(pull: Pull, node: Node, index: Index) -> Expr:
    place = {axis: index[position] for position, axis in enumerate(node.attrs["perm"])}
    return pull.operand(node, 0, tuple(place[axis] for axis in range(len(index))))


@element("view.expand")
def expand(pull: Pull, node: Node, index: Index) -> Expr:
    old, new = operand_shape(node), node.result.shape
    lead = len(new) - len(old)
    tail = zip(index[lead:], old, new[lead:], strict=True)
    return pull.operand(node, 0, tuple(index_constant(0) if o != n else place for place, o, n in tail))


@element("view.slice")
def slice_(pull: Pull, node: Node, index: Index) -> Expr:
    axis, step = node.attrs["axis"], index_constant(node.attrs["step"])
    place = bind(pull.size(node.attrs["start"]) + index[axis] * step)
    return pull.operand(node, 0, replaced(index, axis, place))


@element("view.concat")
def concat(pull: Pull, node: Node, index: Index) -> Expr:
    axis, end = node.attrs["axis"], Dim.of(0)
    found = Cell(tirx.const(0, pull.type(node.result.dtype)))
    for position in range(len(node.args)):
        begin, end = end, end + operand_shape(node, position)[axis]
        inside = tirx.And(index[axis] >= pull.size(begin), index[axis] < pull.size(end))
        with pull.when(inside):
            found.set(pull.operand(node, position, replaced(index, axis, bind(index[axis] - pull.size(begin)))))
    return found.get()


@element("view.pad")
def pad(pull: Pull, node: Node, index: Index) -> Expr:
    shape, mode = operand_shape(node), node.attrs["mode"]
    places = [bind(place - pull.size(low)) for place, low in zip(index, node.attrs["before"], strict=True)]
    sizes = [pull.size(size) for size in shape]
    if mode != "constant":
        inner = (_folded(place, size, mode) for place, size in zip(places, sizes, strict=True))
        return pull.operand(node, 0, tuple(inner))
    inside = tirx.const(True, "bool")
    for place, size, low, high in zip(places, sizes, node.attrs["before"], node.attrs["after"], strict=True):
        if low != Dim.of(0) or high != Dim.of(0):
            inside = tirx.And(inside, tirx.And(place >= index_constant(0), place < size))
    dtype = node.result.dtype
    filler = tirx.const(dtype.numpy.type(node.attrs["value"]).item(), pull.type(dtype))
    return pull.where(inside, dtype, lambda: pull.operand(node, 0, tuple(places)), filler)


def _folded(place: Expr, size: Expr, mode: str) -> Expr:
    """The place inside [0, size) that stands for one outside, as numpy.pad counts."""
    zero, one = index_constant(0), index_constant(1)
    if mode == "edge":
        return bind(tirx.min(tirx.max(place, zero), size - one))
    if mode == "wrap":
        return bind(tirx.floormod(place, size))
    period = bind(tirx.max((size - one) * index_constant(2), one))
    phase = bind(tirx.floormod(place, period))
    return bind(tirx.min(phase, period - phase))  # size 1: the period is 1, the phase 0
