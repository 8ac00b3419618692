"""Convolutions, pooling and resizing of images in either layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import index_constant
from nomul.backends.generic import element
from nomul.backends.generic.products import with_bias
from nomul.backends.generic.pull import Cell, Pull
from nomul.backends.generic.reduce import larger, narrowed
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node


def image_index(node: Node, index: Index) -> Index:
    """(n, c, h, w) of an index in the node's layout, and the other way round."""
    if node.attrs["layout"] == "nchw":
        return index
    n, h, w, c = index
    return n, c, h, w


def layout_index(node: Node, n: Expr, c: Expr, h: Expr, w: Expr) -> Index:
    return (n, c, h, w) if node.attrs["layout"] == "nchw" else (n, h, w, c)


def image_sizes(pull: Pull, node: Node) -> Index:
    """(n, c, h, w) sizes of the first operand."""
    return image_index(node, tuple(pull.size(size) for size in operand_shape(node)))


def _constants(values: Sequence[int]) -> list[Expr]:
    return [index_constant(value) for value in values]


def inside_image(places: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
    """Whether each place lies in [0, size)."""
    condition = tirx.const(True, "bool")
    for place, size in zip(places, sizes, strict=True):
        condition = tirx.And(condition, tirx.And(place >= index_constant(0), place < size))
    return condition


@element("nn.conv2d", costly=True)
def conv2d(pull: Pull, node: Node, index: Index) -> Expr:
    """Channels go innermost, so that whether a tap lies inside the image is asked once for all of them."""
    n, o, *place = image_index(node, index)
    _, _, *sizes = image_sizes(pull, node)
    outputs, inputs, height, width = (int(size) for size in operand_shape(node, 1))
    strides, dilations = _constants(node.attrs["strides"]), _constants(node.attrs["dilations"])
    pads = _constants(node.attrs["pads"])
    first = _first_channel(o, outputs // node.attrs["groups"], inputs)
    sum = Cell(tirx.const(0.0, pull.type(node.result.dtype)))

    def at(axis: int, tap: Expr) -> Expr:
        return bind(place[axis] * strides[axis] + tap * dilations[axis] - pads[axis])

    with pull.loops(index_constant(height)) as (j,):
        y = at(0, j)
        with pull.when(inside_image([y], sizes[:1])), pull.loops(index_constant(width)) as (k,):
            x = at(1, k)
            with pull.when(inside_image([x], sizes[1:])), pull.loops(index_constant(inputs)) as (i,):
                pixel = pull.operand(node, 0, layout_index(node, n, first + i, y, x))
                sum.set(fma(pixel, pull.operand(node, 1, (o, i, j, k)), sum.get()))
    return with_bias(pull, node, sum.get(), o)


def _first_channel(channel: Expr, group_size: int, group_inputs: int) -> Expr:
    """The first input channel of the group that an output channel is in."""
    return bind(tirx.truncdiv(channel, index_constant(group_size)) * index_constant(group_inputs))


@element("nn.conv_transpose2d", costly=True)
def conv_transpose2d(pull: Pull, node: Node, index: Index) -> Expr:
    """An output element gathers the taps that reach it: x at (place + pad - tap * dilation) / stride where whole."""
    n, o, *place = image_index(node, index)
    _, _, *sizes = image_sizes(pull, node)
    inputs, outputs, *kernel = (int(size) for size in operand_shape(node, 1))
    strides, dilations = _constants(node.attrs["strides"]), _constants(node.attrs["dilations"])
    pads = _constants(node.attrs["pads"])
    group_inputs = inputs // node.attrs["groups"]
    first = _first_channel(o, outputs, group_inputs)
    own = bind(tirx.truncmod(o, index_constant(outputs)))
    sum = Cell(tirx.const(0.0, pull.type(node.result.dtype)))
    with pull.loops(*_constants([group_inputs, *kernel])) as (i, *tap):
        reach = [bind(place[a] + pads[a] - tap[a] * dilations[a]) for a in (0, 1)]
        at = [bind(tirx.truncdiv(reach[a], strides[a])) for a in (0, 1)]
        whole = tirx.And(*(tirx.EQ(at[a] * strides[a], reach[a]) for a in (0, 1)))
        with pull.when(tirx.And(whole, inside_image(at, sizes))):
            x = pull.operand(node, 0, layout_index(node, n, first + i, at[0], at[1]))
            sum.set(fma(x, pull.operand(node, 1, (first + i, own, *tap)), sum.get()))
    return with_bias(pull, node, sum.get(), o)


def _window(pull: Pull, node: Node, index: Index, visit: Callable[[Expr], None]) -> None:
    """visit(element) for each element of a pooling window that is not padding."""
    n, c, *place = image_index(node, index)
    _, _, *sizes = image_sizes(pull, node)
    strides, dilations = _constants(node.attrs["strides"]), _constants(node.attrs["dilations"])
    pads = _constants(node.attrs["pads"])
    with pull.loops(*_constants(node.attrs["kernel"])) as tap:
        at = [bind(place[a] * strides[a] + tap[a] * dilations[a] - pads[a]) for a in (0, 1)]
        with pull.when(inside_image(at, sizes)):
            visit(pull.operand(node, 0, layout_index(node, n, c, at[0], at[1])))


@element("nn.max_pool2d", costly=True)
def max_pool2d(pull: Pull, node: Node, index: Index) -> Expr:
    best = Cell(tirx.const(-math.inf, pull.type(node.result.dtype)))
    _window(pull, node, index, lambda x: best.set(larger(best.get(), x)))
    return best.get()


@element("nn.avg_pool2d", costly=True)
def avg_pool2d(pull: Pull, node: Node, index: Index) -> Expr:
    sum = Cell(tirx.const(0.0, "float64"))
    _window(pull, node, index, lambda x: sum.set(sum.get() + tirx.Cast("float64", x)))
    return narrowed(pull, bind(sum.get() / tirx.Cast("float64", _count(pull, node, index))), node.result.dtype)


def _count(pull: Pull, node: Node, index: Index) -> Expr:
    """How many elements of a window count: those of the image, with count_pads those of the padded image."""
    _, _, *place = image_index(node, index)
    _, _, *sizes = image_sizes(pull, node)
    attrs, count = node.attrs, index_constant(1)
    for axis in (0, 1):
        low, high = (attrs["pads"][axis], attrs["pads"][2 + axis]) if attrs["count_pads"] else (0, 0)
        start = place[axis] * index_constant(attrs["strides"][axis]) - index_constant(attrs["pads"][axis])
        step = index_constant(attrs["dilations"][axis])
        # taps t with -low <= start + t * step < size + high
        below = tirx.max(index_constant(-low) - start, index_constant(0))
        first = tirx.truncdiv(below + step - index_constant(1), step)
        room = tirx.max(sizes[axis] + index_constant(high) - start, index_constant(0))
        last = tirx.min(tirx.truncdiv(room + step - index_constant(1), step), index_constant(attrs["kernel"][axis]))
        count = bind(count * (last - first))
    return count
