"""Normalisations and softmax over any axis: sums in f64 over a line, then its elements."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, constant, intrinsic, minus
from nomul.backends.frame import index_constant
from nomul.backends.generic import element, line
from nomul.backends.generic.pull import Line, Pull, Step, replaced
from nomul.backends.generic.reduce import larger, total
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Node, Value
from nomul.ir.types import DType


def _first(node: Node) -> Value:
    assert node.args[0] is not None
    return node.args[0]


def _wide(value: Expr) -> Expr:
    return value if value.ty.dtype == "float64" else tirx.Cast("float64", value)


def _affine(pull: Pull, node: Node, value: Expr, channel: Expr) -> Expr:
    """value * gamma[channel] + beta[channel], where the node has them (operands 1 and 2)."""
    if len(node.args) > 1 and node.args[1] is not None:
        value = bind(value * pull.operand(node, 1, (channel,)))
    if len(node.args) > 2 and node.args[2] is not None:
        value = bind(value + pull.operand(node, 2, (channel,)))
    return value


def _statistics(pull: Pull, x: Value, count: Dim, sum: Callable[[Callable[[Index], Expr]], Expr]) -> tuple[Expr, Expr]:
    """(mean, variance) of a line of x, in f64. sum(term): the total of term(index) over the line."""
    number = bind(tirx.Cast("float64", pull.size(count)))
    mean = bind(sum(lambda index: _wide(pull.element(x, index))) / number)

    def square(index: Index) -> Expr:
        centred = bind(_wide(pull.element(x, index)) - mean)
        return centred * centred

    return mean, bind(sum(square) / number)


def _line_sum(pull: Pull, x: Value, axis: int, index: Index) -> Callable[[Callable[[Index], Expr]], Expr]:
    """Totals over the line of x through `index` along an axis."""
    ranges = [pull.size(x.shape[axis])]
    return lambda term: total(pull, DType.F64, ranges, lambda place: term(replaced(index, axis, place[0])))


def _scale(variance: Expr, eps: float) -> Expr:
    return bind(constant(variance, 1.0) / intrinsic("llvm.sqrt", bind(variance + constant(variance, eps))))


@line("nn.layer_norm")
def layer_norm(pull: Pull, node: Node) -> Line:
    x = _first(node)
    axis = len(x.shape) - 1

    def prepare(index: Index) -> Step:
        mean, variance = _statistics(pull, x, x.shape[axis], _line_sum(pull, x, axis, index))
        scale = _scale(variance, node.attrs["eps"])

        def step(place: Index) -> tuple[Expr, ...]:
            centred = (_wide(pull.element(x, place)) - mean) * scale
            return (_affine(pull, node, bind(tirx.Cast(pull.type(x.dtype), centred)), place[-1]),)

        return step

    return Line.along(x.shape, axis, prepare)


@line("nn.rms_norm")
def rms_norm(pull: Pull, node: Node) -> Line:
    x = _first(node)
    axis = len(x.shape) - 1

    def square(place: Index) -> Expr:
        value = bind(_wide(pull.element(x, place)))
        return value * value

    def prepare(index: Index) -> Step:
        count = tirx.Cast("float64", pull.size(x.shape[axis]))
        scale = _scale(bind(_line_sum(pull, x, axis, index)(square) / count), node.attrs["eps"])

        def step(place: Index) -> tuple[Expr, ...]:
            value = bind(tirx.Cast(pull.type(x.dtype), _wide(pull.element(x, place)) * scale))
            return (_affine(pull, node, value, place[-1]),)

        return step

    return Line.along(x.shape, axis, prepare)


@element("nn.batch_norm")
def batch_norm(pull: Pull, node: Node, index: Index) -> Expr:
    gamma, beta, mean, variance = (pull.operand(node, position, (index[1],)) for position in (1, 2, 3, 4))
    scale = bind(gamma * _scale(variance, node.attrs["eps"]))
    return bind(pull.operand(node, 0, index) * scale + (beta - mean * scale))


@line("nn.group_norm")
def group_norm(pull: Pull, node: Node) -> Line:
    """A line is one group of channels of one image, with all positions."""
    x, groups = _first(node), node.attrs["groups"]
    channels = int(x.shape[1]) // groups
    places = (Dim.of(channels), *x.shape[2:])

    def at(line: Index, place: Index) -> Index:
        return (line[0], bind(line[1] * index_constant(channels) + place[0]), *place[1:])

    def prepare(line: Index) -> Step:
        def sum(term: Callable[[Index], Expr]) -> Expr:
            ranges = [pull.size(size) for size in places]
            return bind(total(pull, DType.F64, ranges, lambda place: term(at(line, place))))

        mean, variance = _statistics(pull, x, product(places), sum)
        scale = _scale(variance, node.attrs["eps"])

        def step(index: Index) -> tuple[Expr, ...]:
            centred = (_wide(pull.element(x, index)) - mean) * scale
            return (_affine(pull, node, bind(tirx.Cast(pull.type(x.dtype), centred)), index[1]),)

        return step

    return Line((x.shape[0], Dim.of(groups)), places, at, prepare)


@line("nn.softmax")
def softmax(pull: Pull, node: Node) -> Line:
    def finish(shifted: Expr, sum: Expr) -> Expr:
        return bind(tirx.Cast(shifted.ty.dtype, _wide(mathlib.exp(shifted)) / sum))

    return _softmax(pull, node, finish)


@line("nn.log_softmax")
def log_softmax(pull: Pull, node: Node) -> Line:
    def finish(shifted: Expr, sum: Expr) -> Expr:
        return bind(tirx.Cast(shifted.ty.dtype, _wide(shifted) - mathlib.log(sum)))

    return _softmax(pull, node, finish)


def _softmax(pull: Pull, node: Node, finish: Callable[[Expr, Expr], Expr]) -> Line:
    """finish(x - max, sum of exponentials) gives the element."""
    x, axis = _first(node), node.attrs["axis"]
    dtype = pull.type(x.dtype)

    def prepare(index: Index) -> Step:
        def at(i: Index) -> Expr:
            return pull.element(x, replaced(index, axis, i[0]))

        size = pull.size(x.shape[axis])
        top = bind(pull.fold([size], tirx.const(-math.inf, dtype), lambda a, i: larger(a, at(i))))

        def shifted(place: Index) -> Expr:
            return bind(minus(pull.element(x, place), top))

        sum = _line_sum(pull, x, axis, index)(lambda place: mathlib.exp(shifted(place)))

        def step(place: Index) -> tuple[Expr, ...]:
            value = shifted(place)
            return (finish(value, sum),)

        return step

    return Line.along(x.shape, axis, prepare)
