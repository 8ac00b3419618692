"""Attention, one query of one head at a time: its weights go through scratch."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr, Index, broadcast_index
from nomul.backends.expressions import bind, constant, fma, minus
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.pull import Cell, Line, Pull
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node
from nomul.ir.types import DType


@line("nn.attention")
def attention(pull: Pull, node: Node) -> Line:
    """A line is the result's last axis; scratch holds one weight per key, in the type of the scores."""
    keys = operand_shape(node, 1)[1]
    dtype = pull.type(node.result.dtype)
    heads_per_key = int(operand_shape(node)[2]) // int(operand_shape(node, 1)[2])

    def prepare(index: Index) -> Callable[[Index], tuple[Expr, ...]]:
        weights = pull.strip(dtype, keys)
        batch, _, head, _ = index
        key_head = bind(tirx.truncdiv(head, index_constant(heads_per_key)))
        top = Cell(tirx.const(_lowest(dtype), dtype))
        with pull.loops(pull.size(keys)) as (t,):
            score = _score(pull, node, index, key_head, t)
            weights.write(t, score)
            top.set(tirx.Select(score > top.get(), score, top.get()))
        total = Cell(tirx.const(0.0, dtype))
        with pull.loops(pull.size(keys)) as (t,):
            weight = bind(mathlib.exp(bind(minus(weights.read(t), top.get()))))
            weights.write(t, weight)
            total.set(total.get() + weight)
        nothing = tirx.EQ(total.get(), constant(total.get(), 0.0))
        divisor = bind(tirx.Select(nothing, constant(total.get(), 1.0), total.get()))

        def step(place: Index) -> tuple[Expr, ...]:
            def weighted(sum: Expr, inner: Index) -> Expr:
                value = pull.operand(node, 2, (batch, inner[0], key_head, place[3]))
                return fma(weights.read(inner[0]), value, sum)

            sum = bind(pull.fold([pull.size(keys)], tirx.const(0.0, dtype), weighted))
            return (bind(sum / divisor),)

        return step

    return Line.along(node.result.shape, 3, prepare)


def _lowest(dtype: str) -> float:
    return -3.4028234663852886e38 if dtype == "float32" else -1.7976931348623157e308


def _score(pull: Pull, node: Node, index: Index, key_head: Expr, t: Expr) -> Expr:
    """q . k * scale, with the mask applied."""
    batch, query, head, _ = index
    dtype = pull.type(node.result.dtype)

    def product(sum: Expr, inner: Index) -> Expr:
        q = pull.operand(node, 0, (batch, query, head, inner[0]))
        return fma(q, pull.operand(node, 1, (batch, t, key_head, inner[0])), sum)

    score = bind(pull.fold([pull.size(operand_shape(node)[3])], tirx.const(0.0, dtype), product))
    score = bind(score * constant(score, node.attrs["scale"]))
    hidden = constant(score, -math.inf)
    if len(node.args) > 3 and node.args[3] is not None:
        mask = node.args[3]
        seen = pull.element(mask, broadcast_index((batch, head, query, t), mask.shape))
        score = bind(tirx.Select(seen, score, hidden) if mask.dtype is DType.BOOL else score + seen)
    if node.attrs["causal"]:
        score = bind(tirx.Select(t <= query, score, hidden))
    return score
