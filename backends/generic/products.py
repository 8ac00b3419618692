"""Products of matrices, one dot product per element."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from nomul.backends.emit import Expr, Index, broadcast_index
from nomul.backends.expressions import bind, fma
from nomul.backends.generic import element
from nomul.backends.generic.pull import Pull
from nomul.backends.generic.view import operand_shape
from nomul.ir.dim import Dim
from nomul.ir.graph import Node


def dot(pull: Pull, node: Node, ranges: list[Expr], pair: Callable[[Index], tuple[Expr, Expr]]) -> Expr:
    """The sum of products of pairs over nested loops, in the type that the result is computed in."""
    start = tirx.const(0.0, pull.type(node.result.dtype))
    return bind(pull.fold(ranges, start, lambda sum, index: fma(*pair(index), sum)))


def with_bias(pull: Pull, node: Node, value: Expr, channel: Expr, position: int = 2) -> Expr:
    """value + bias[channel], where the node has the operand at that position."""
    if len(node.args) <= position or node.args[position] is None:
        return value
    return bind(value + pull.operand(node, position, (channel,)))


@element("nn.linear", costly=True)
def linear(pull: Pull, node: Node, index: Index) -> Expr:
    def pair(inner: Index) -> tuple[Expr, Expr]:
        (k,) = inner
        return pull.operand(node, 0, (*index[:-1], k)), pull.operand(node, 1, (index[-1], k))

    value = dot(pull, node, [pull.size(operand_shape(node)[-1])], pair)
    return with_bias(pull, node, value, index[-1])


@element("nn.matmul", costly=True)
def matmul(pull: Pull, node: Node, index: Index) -> Expr:
    left, right = operand_shape(node, 0), operand_shape(node, 1)
    batch, row, column = index[:-2], index[-2], index[-1]

    def pair(inner: Index) -> tuple[Expr, Expr]:
        (k,) = inner
        x = pull.operand(node, 0, (*_batch(batch, left), row, k))
        return x, pull.operand(node, 1, (*_batch(batch, right), k, column))

    return dot(pull, node, [pull.size(left[-1])], pair)


def _batch(index: Index, shape: tuple[Dim, ...]) -> Index:
    return broadcast_index(index, shape[:-2])
