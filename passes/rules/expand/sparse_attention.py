"""Sparse-linear attention as attention with a mask of tiles and products; calibrated attention on its weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.expand.linear_attention import features
from nomul.passes.rules.expand.terms import (
    as_float,
    by_heads,
    count_along,
    divided,
    hidden,
    need,
    padded,
    swapped,
    total,
)


class SparseLinearAttention(NodeRule):
    """sparse_linear_attention -> ranks of blocks, attention to the critical tiles, linear attention to the rest."""

    ops = ("nn.sparse_linear_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k, v = (need(node, position) for position in range(3))
        attrs, block = node.attrs, node.attrs["block"]
        pooled = [by_heads(g, _pooled(g, x, block)) for x in (q, k)]
        scores = g.nn.matmul(pooled[0], swapped(g, pooled[1]))
        near = _ranked(g, scores, attrs["critical"], largest=True)
        sparse = g.nn.attention(q, k, v, None, None, None, near, scale=attrs["scale"], tile=block)
        if attrs["rest"] == "all":
            shared = {name: attrs[name] for name in ("map", "eps")}
            linear = g.nn.linear_attention(q, k, v, **shared)
        else:
            far = g.ew.not_(near)
            if attrs["negligible"] != 0:
                last = _ranked(g, scores, attrs["negligible"], largest=False)
                far = g.ew.and_(far, g.ew.not_(last))
            linear = _linear(g, (q, k, v), far, attrs)
        projection, bias = node.operand(3), node.operand(4)
        if projection is not None:
            linear = g.nn.matmul(linear, swapped(g, projection))
        linear = linear if bias is None else g.ew.add(linear, bias)
        return g.ew.add(sparse, linear)


def _blocks(g: Rewriter, x: Value, block: int) -> Value:
    """[B, S, H, D] as [B, S / block, block, H, D], with zeros behind the last token."""
    batch, tokens, heads, size = x.shape
    count = ceil_div(tokens, block)
    return g.view.reshape(padded(g, x, 1, count * block - tokens), shape=(batch, count, Dim.of(block), heads, size))


def _pooled(g: Rewriter, x: Value, block: int) -> Value:
    """Means of blocks; the last one may be short."""
    sums = g.reduce.sum(_blocks(g, x, block), axes=(2,), keepdims=False)
    tokens, count = x.shape[1], sums.shape[1]
    if (count * block - tokens) == 0:
        return g.ew.mul(sums, 1 / block)
    left = g.ew.sub(g.make.size(size=tokens), g.ew.mul(count_along(g, count, 4, 1), block))
    return g.ew.div(sums, g.ew.cast(g.ew.min(left, Constant(block, DType.I64)), dtype=x.dtype))


def _ranked(g: Rewriter, scores: Value, count: Dim, *, largest: bool) -> Value:
    """True at the `count` best of each row."""
    best = g.node("index.top_k", scores, k=count, axis=3, largest=largest).results[1]
    zeros = g.make.full(shape=scores.shape, value=0.0, dtype=DType.I64)
    ones = g.make.full(shape=best.shape, value=1.0, dtype=DType.I64)
    return g.ew.gt(g.index.scatter_elements(zeros, best, ones, axis=3), 0)


def _linear(g: Rewriter, operands: tuple[Value, ...], far: Value, attrs: dict[str, Any]) -> Value:
    """Linear attention of each block of queries to its own blocks of keys, whose sums are worked out once."""
    block = attrs["block"]
    q, k, v = operands
    queries, keys, values = (
        g.view.transpose(_blocks(g, x, block), perm=(0, 3, 1, 2, 4))
        for x in (features(g, q, attrs["map"]), features(g, k, attrs["map"]), v)
    )
    batch, heads, count, _, size = keys.shape
    width, use = v.shape[3], g.ew.cast(far, dtype=q.dtype)
    sums = g.view.reshape(g.nn.matmul(swapped(g, keys), values), shape=(batch, heads, count, size * width))
    rows = queries.shape[2]
    sums = g.view.reshape(g.nn.matmul(use, sums), shape=(batch, heads, rows, size, width))
    totals = g.nn.matmul(use, g.reduce.sum(keys, axes=(3,), keepdims=False))
    divisor = g.nn.matmul(queries, g.view.reshape(totals, shape=(batch, heads, rows, size, ONE)))
    divisor = g.ew.add(divisor, attrs["eps"]) if attrs["eps"] else divisor
    y = g.view.transpose(divided(g, g.nn.matmul(queries, sums), divisor), perm=(0, 2, 3, 1, 4))
    y = g.view.reshape(y, shape=(batch, rows * block, heads, width))
    return y if y.shape[1] == q.shape[1] else g.view.slice(y, axis=1, stop=q.shape[1])


class CalibratedAttention(NodeRule):
    """calibrated_attention -> weights, their means over queries, and weights that are calmed where those are large."""

    ops = ("nn.calibrated_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k, v = (by_heads(g, need(node, position)) for position in range(3))
        tokens, attrs = q.shape[2], node.attrs
        scores = g.ew.mul(g.nn.matmul(q, swapped(g, k)), attrs["scale"])
        rows, columns = (count_along(g, tokens, 4, axis) for axis in (2, 3))
        if attrs["causal"]:
            scores = hidden(g, g.ew.le(columns, rows), scores)
        weights = g.nn.softmax(scores, axis=3)
        sinks = self._sinks(g, weights, columns, attrs)
        zero = Constant(0.0, q.dtype)
        calm = g.ew.where(sinks, g.ew.mul(weights, attrs["beta"]), zero)
        others = g.ew.where(sinks, zero, weights)
        left, rest = total(g, others, 3), g.ew.sub(1.0, total(g, calm, 3))
        changed = g.ew.add(calm, divided(g, g.ew.mul(others, rest), left))
        use = g.ew.and_(g.ew.gt(rows, 0), g.ew.gt(left, zero))
        if attrs["heads"]:
            chosen = np.isin(np.arange(int(q.shape[1])), attrs["heads"])
            use = g.ew.and_(use, g.view.reshape(g.weight("calibrated", chosen), shape=(q.shape[1], ONE, ONE)))
        return by_heads(g, g.nn.matmul(g.ew.where(use, changed, weights), v))

    def _sinks(self, g: Rewriter, weights: Value, columns: Value, attrs: dict[str, Any]) -> Value:
        tokens = weights.shape[3]
        count = as_float(g, tokens, weights.dtype)
        if attrs["causal"]:
            count = g.ew.cast(g.ew.sub(g.make.size(size=tokens), columns), dtype=weights.dtype)
        large = g.ew.gt(g.ew.div(total(g, weights, 2), count), attrs["threshold"])
        number = g.reduce.cumsum(g.ew.cast(large, dtype=DType.I64), axis=3)
        return g.ew.and_(large, g.ew.gt(number, 1))
