"""Binary codes as comparisons."""

from __future__ import annotations

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
    """hash_codes -> distances to the anchors, |x|^2 + |a|^2 - 2 x a, their kernel, a product with the projection."""

    ops = ("nn.hash_codes",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, anchors, centre, projection = (need(node, position) for position in range(4))
        heads, count, _ = anchors.shape
        lengths = [total(g, g.ew.mul(y, y), y.type.rank - 1) for y in (x, anchors)]
        apart = g.nn.matmul(by_heads(g, x), swapped(g, g.ew.mul(anchors, -2.0)))
        both = g.ew.add(by_heads(g, lengths[0]), swapped(g, lengths[1]))
        distance = g.ew.clip(g.ew.add(apart, both), low=0.0)
        power = g.ew.exp(g.ew.mul(distance, -0.5 / node.attrs["sigma"]))
        kernel = g.ew.sub(power, g.view.reshape(centre, shape=(heads, ONE, count)))
        return by_heads(g, g.ew.gt(g.nn.matmul(kernel, swapped(g, projection)), 0.0))


def _unit(g: Rewriter, x: Value) -> Value:
    """Vectors along the last axis at length 1, or 0."""
    return divided(g, x, g.ew.sqrt(total(g, g.ew.mul(x, x), x.type.rank - 1)))
