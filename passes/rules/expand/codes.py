"""Binary codes and their attention as products of zeros and ones."""

from __future__ import annotations

from math import pi

from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.expand.terms import by_heads, divided, need, swapped, total


class HammingCodes(NodeRule):
    """hamming_codes -> each head's vector at length 1, above the mean of all."""

    ops = ("nn.hamming_codes",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        unit = _unit(g, need(node, 0))
        return g.ew.gt(unit, g.reduce.mean(unit, axes=(0, 1, 2, 3), keepdims=True))


class HashCodes(NodeRule):
    """hash_codes -> distances to the anchors, their kernel, and a product with the projection."""

    ops = ("nn.hash_codes",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, anchors, centre, projection = (need(node, position) for position in range(4))
        away = g.ew.sub(g.view.reshape(x, shape=(*x.shape[:3], ONE, x.shape[3])), anchors)
        distance = g.reduce.sum(g.ew.mul(away, away), axes=(4,), keepdims=False)
        kernel = g.ew.sub(g.ew.exp(g.ew.mul(distance, -0.5 / node.attrs["sigma"])), centre)
        bits = g.nn.matmul(by_heads(g, kernel), swapped(g, projection))
        return by_heads(g, g.ew.gt(bits, 0.0))


class HammingAttention(NodeRule):
    """hamming_attention -> products of bits as numbers with the values."""

    ops = ("nn.hamming_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        v = by_heads(g, need(node, 2))
        q, k = (by_heads(g, g.ew.cast(need(node, position), dtype=v.dtype)) for position in (0, 1))
        far = g.ew.mul(g.nn.matmul(q, g.nn.matmul(swapped(g, k), v)), 1 / pi)
        y = by_heads(g, g.ew.add(g.ew.mul(v, 0.5), far))
        return _unit(g, y) if node.attrs["normalise"] else y


def _unit(g: Rewriter, x: Value) -> Value:
    """Vectors along the last axis at length 1, or 0."""
    return divided(g, x, g.ew.sqrt(total(g, g.ew.mul(x, x), x.type.rank - 1)))
