"""Attention, one query of one head at a time: its weights go through scratch."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.attention_span import MASK, RELATIVE, TILES, AttentionSpan, along, optional_operand
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
    dtype = pull.type(node.result.dtype)
    heads_per_key = int(operand_shape(node)[2]) // int(operand_shape(node, 1)[2])
    span = AttentionSpan(node, pull.size)

    def prepare(index: Index) -> Callable[[Index], tuple[Expr, ...]]:
        weights = pull.strip(dtype, operand_shape(node, 1)[1])
        batch, query, head, _ = index
        key_head = bind(tirx.truncdiv(head, index_constant(heads_per_key)))
        length = None
        if span.lengths is not None:
            length = pull.element(span.lengths, (along(span.lengths, 0, batch),))
        seen = (bind(span.first(query)), span.end(query, length))
        top = Cell(tirx.const(_lowest(dtype), dtype))
        with pull.loops(seen) as (t,):
            score = _score(pull, node, index, key_head, t)
            weights.write(t, score)
            top.set(tirx.Select(score > top.get(), score, top.get()))
        total = Cell(tirx.const(0.0, dtype))
        with pull.loops(seen) as (t,):
            weight = bind(mathlib.exp(bind(minus(weights.read(t), top.get()))))
            weights.write(t, weight)
            total.set(total.get() + weight)
        nothing = tirx.EQ(total.get(), constant(total.get(), 0.0))
        divisor = bind(tirx.Select(nothing, constant(total.get(), 1.0), total.get()))

        def step(place: Index) -> tuple[Expr, ...]:
            def weighted(sum: Expr, inner: Index) -> Expr:
                value = pull.operand(node, 2, (batch, inner[0], key_head, place[3]))
                return fma(weights.read(inner[0]), value, sum)

            sum = bind(pull.fold([seen], tirx.const(0.0, dtype), weighted))
            return (bind(sum / divisor),)

        return step

    return Line.along(node.result.shape, 3, prepare)


def _lowest(dtype: str) -> float:
    return -3.4028234663852886e38 if dtype == "float32" else -1.7976931348623157e308


def _score(pull: Pull, node: Node, index: Index, key_head: Expr, t: Expr) -> Expr:
    """q . k * scale, capped, with the masks and the bias applied."""
    batch, query, head, _ = index
    dtype = pull.type(node.result.dtype)

    def product(sum: Expr, inner: Index) -> Expr:
        q = pull.operand(node, 0, (batch, query, head, inner[0]))
        return fma(q, pull.operand(node, 1, (batch, t, key_head, inner[0])), sum)

    score = bind(pull.fold([pull.size(operand_shape(node)[3])], tirx.const(0.0, dtype), product))
    score = bind(score * constant(score, node.attrs["scale"]))
    cap = node.attrs["softcap"]
    if cap:
        score = bind(mathlib.tanh(bind(score / constant(score, cap))) * constant(score, cap))
    hidden = constant(score, -math.inf)
    mask, relative, tiles = (optional_operand(node, position) for position in (MASK, RELATIVE, TILES))
    if mask is not None:
        seen = pull.element(mask, broadcast_index((batch, head, query, t), mask.shape))
        score = bind(tirx.Select(seen, score, hidden) if mask.dtype is DType.BOOL else score + seen)
    if relative is not None:
        distance = bind(t - query + (pull.size(operand_shape(node)[1]) - 1))
        score = bind(score + pull.element(relative, (along(relative, 0, head), distance)))
    if tiles is not None:
        size = index_constant(node.attrs["tile"])
        outer = (along(tiles, 0, batch), along(tiles, 1, head))
        kept = pull.element(tiles, (*outer, bind(tirx.truncdiv(query, size)), bind(tirx.truncdiv(t, size))))
        score = bind(tirx.Select(kept, score, hidden))
    return score
