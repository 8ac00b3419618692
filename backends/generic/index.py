"""Reading and writing by index. Indices wrap and are clamped as the ops say, so that no access is outside."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind
from nomul.backends.frame import index_constant
from nomul.backends.generic import element, whole
from nomul.backends.generic.pull import Pull, Stored, replaced
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node


def wrapped(number: Expr, size: Expr) -> Expr:
    """An index inside [0, size) (0 where size is 0), from the end where it is negative."""
    zero, one = index_constant(0), index_constant(1)
    place = bind(number if number.ty.dtype == "int64" else tirx.Cast("int64", number))
    place = bind(tirx.Select(place < zero, place + size, place))
    place = bind(tirx.Select(place < zero, zero, place))
    last = tirx.max(size - one, zero)
    return bind(tirx.Select(place > last, last, place))


@element("index.gather")
def gather(pull: Pull, node: Node, index: Index) -> Expr:
    axis, rank = node.attrs["axis"], len(operand_shape(node, 1))
    number = pull.operand(node, 1, index[axis : axis + rank])
    place = wrapped(number, pull.size(operand_shape(node)[axis]))
    return pull.operand(node, 0, (*index[:axis], place, *index[axis + rank :]))


@element("index.gather_elements")
def gather_elements(pull: Pull, node: Node, index: Index) -> Expr:
    axis = node.attrs["axis"]
    place = wrapped(pull.operand(node, 1, index), pull.size(operand_shape(node)[axis]))
    return pull.operand(node, 0, replaced(index, axis, place))


@element("index.gather_nd")
def gather_nd(pull: Pull, node: Node, index: Index) -> Expr:
    shape, batch = operand_shape(node), node.attrs["batch_dims"]
    indices = operand_shape(node, 1)
    lead, depth = index[: len(indices) - 1], int(indices[-1])
    places = [
        wrapped(pull.operand(node, 1, (*lead, index_constant(i))), pull.size(shape[batch + i])) for i in range(depth)
    ]
    return pull.operand(node, 0, (*index[:batch], *places, *index[len(lead) :]))


Combine = Callable[[Expr, Expr], Expr]


def _combine(node: Node) -> Combine:
    return {
        "none": lambda old, new: new,
        "add": lambda old, new: old + new,
        "mul": lambda old, new: old * new,
        "max": lambda old, new: tirx.Select(new > old, new, old),
        "min": lambda old, new: tirx.Select(new < old, new, old),
    }[node.attrs["reduction"]]


def _copy(pull: Pull, node: Node, destination: Stored) -> None:
    with pull.loops(*(pull.size(size) for size in node.result.shape)) as index:
        destination.write(index, pull.operand(node, 0, index))


@whole("index.scatter_nd")
def scatter_nd(pull: Pull, node: Node, destination: Stored) -> None:
    """A copy of x, then the updates in order."""
    _copy(pull, node, destination)
    shape, indices, updates = node.result.shape, operand_shape(node, 1), operand_shape(node, 2)
    lead, depth, combine = len(indices) - 1, int(indices[-1]), _combine(node)
    with pull.loops(*(pull.size(size) for size in updates)) as index:
        places = [
            wrapped(pull.operand(node, 1, (*index[:lead], index_constant(i))), pull.size(shape[i]))
            for i in range(depth)
        ]
        target = (*places, *index[lead:])
        destination.write(target, combine(destination.read(target), pull.operand(node, 2, index)))


@whole("index.scatter_elements")
def scatter_elements(pull: Pull, node: Node, destination: Stored) -> None:
    """A copy of x, then the updates in order."""
    _copy(pull, node, destination)
    axis, combine = node.attrs["axis"], _combine(node)
    with pull.loops(*(pull.size(size) for size in operand_shape(node, 1))) as index:
        place = wrapped(pull.operand(node, 1, index), pull.size(node.result.shape[axis]))
        target = replaced(index, axis, place)
        destination.write(target, combine(destination.read(target), pull.operand(node, 2, index)))
