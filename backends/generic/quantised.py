"""Quantised activations and their products with encoded weights: integer sums by group, then their scales."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from nomul.backends.decoders import Side, Term, has_decoder, sides_of
from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import index_constant, split_index
from nomul.backends.generic import element, whole
from nomul.backends.generic.convolve import image_index, image_sizes, inside_image, layout_index
from nomul.backends.generic.products import with_bias
from nomul.backends.generic.pull import Cell, Pull, Stored
from nomul.backends.generic.view import operand_shape
from nomul.backends.tir.quantise import magnitude, row_scale, step, sum_type
from nomul.ir.graph import Node

Read = Callable[[Expr], Expr]  # place in the depth of the sum -> int32


@whole("nn.quantise")
def quantise(pull: Pull, node: Node, integers: Stored, scales: Stored) -> None:
    sizes = [pull.size(size) for size in operand_shape(node)]
    lead = node.attrs["lead"]
    with pull.loops(*sizes[:lead]) as line:
        largest = pull.fold(
            sizes[lead:],
            tirx.const(0, "int32"),
            lambda most, place: tirx.max(most, magnitude(_f32(pull.operand(node, 0, (*line, *place))))),
        )
        row = row_scale(bind(largest), node.attrs)
        scales.write(line, row.scale)
        with pull.loops(*sizes[lead:]) as place:
            index = (*line, *place)
            integers.write(index, step(_f32(pull.operand(node, 0, index)), row))


def _f32(x: Expr) -> Expr:
    return x if x.ty.dtype == "float32" else bind(tirx.Cast("float32", x))


@element("nn.quantised_linear", costly=True)
def quantised_linear(pull: Pull, node: Node, index: Index) -> Expr:
    *row, n = index
    scale = pull.operand(node, 1, tuple(row))
    value = _product(pull, node, n, scale, lambda k: pull.operand(node, 0, (*row, k)))
    return with_bias(pull, node, value, n, 3)


@element("nn.quantised_conv2d", costly=True)
def quantised_conv2d(pull: Pull, node: Node, index: Index) -> Expr:
    image, o, *place = image_index(node, index)
    _, _, *sizes = image_sizes(pull, node)
    outputs, inputs, *kernel = (int(size) for size in operand_shape(node, 2))
    attrs = node.attrs
    group = bind(tirx.truncdiv(o, index_constant(outputs // attrs["groups"])))

    def read(k: Expr) -> Expr:
        i, *tap = split_index(k, [index_constant(size) for size in (inputs, *kernel)])
        at = [bind(place[a] * attrs["strides"][a] + tap[a] * attrs["dilations"][a] - attrs["pads"][a]) for a in (0, 1)]
        pixel = layout_index(node, image, group * index_constant(inputs) + i, at[0], at[1])
        q = node.args[0]
        assert q is not None
        nothing = tirx.const(0, "int8")
        return pull.where(inside_image(at, sizes), q.dtype, lambda: pull.operand(node, 0, pixel), nothing)

    value = _product(pull, node, o, pull.operand(node, 1, (image,)), read)
    return with_bias(pull, node, value, o, 3)


def _product(pull: Pull, node: Node, n: Expr, scale: Expr, read: Read) -> Expr:
    """The sum over the depth of q times row n of the weights, times the scale."""
    w = node.args[2]
    assert w is not None
    encoding = w.type.encoding
    if not has_decoder(encoding) or encoding is None or not encoding.is_integer:
        return _float_product(pull, node, n, scale, read)
    total = Cell(tirx.const(0.0, "float32"))
    for side in sides_of(pull.frame.packed_weight(w)):
        for term in side.terms:
            _add_term(pull, total, (side, term), n, read)
    return _as(pull.type(w.dtype), bind(total.get() * scale))


def _add_term(pull: Pull, total: Cell, part: tuple[Side, Term], n: Expr, read: Read) -> None:
    side, term = part
    kind = sum_type(term.largest, side.size)
    assert term.scale is not None
    with pull.loops(index_constant(side.groups)) as (group,):
        first = bind(group * index_constant(side.size))

        def add(sum: Expr, inner: Index) -> Expr:
            place = bind(first + inner[0])
            column = side.column(place) if side.column else place
            return sum + _as(kind, read(column)) * _as(kind, term.code(n, place))

        sum = pull.fold([index_constant(side.size)], tirx.const(0, kind), add)
        total.set(total.get() + bind(tirx.Cast("float32", sum) * term.scale(n, group)))


def _float_product(pull: Pull, node: Node, n: Expr, scale: Expr, read: Read) -> Expr:
    """Weights without an integer form: q * scale times each of them, in f32."""
    shape = operand_shape(node, 2)
    depth = index_constant(1)
    for size in shape[1:]:
        depth = depth * pull.size(size)

    def add(sum: Expr, inner: Index) -> Expr:
        (k,) = inner
        place = split_index(k, [pull.size(size) for size in shape[1:]])
        activation = bind(tirx.Cast("float32", read(k)) * scale)
        return fma(activation, _f32(pull.operand(node, 2, (n, *place))), sum)

    return _as(pull.type(node.result.dtype), bind(pull.fold([depth], tirx.const(0.0, "float32"), add)))


def _as(dtype: str, value: Expr) -> Expr:
    return value if value.ty.dtype == dtype else bind(tirx.Cast(dtype, value))
