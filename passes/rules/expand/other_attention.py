"""Attention over channels and attention by learned functions as products."""

from __future__ import annotations

from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.expand.terms import by_heads, need, swapped, total


class CrossCovarianceAttention(NodeRule):
    """cross_covariance_attention -> softmax over channels between two products."""

    ops = ("nn.cross_covariance_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turned = [g.view.transpose(need(node, position), perm=(0, 2, 3, 1)) for position in range(3)]
        q, k = (self._unit(g, x) for x in turned[:2])
        scores = g.nn.matmul(q, swapped(g, k))
        temperature = node.operand(3)
        if temperature is not None:
            scores = g.ew.mul(scores, g.view.reshape(temperature, shape=(*temperature.shape, ONE, ONE)))
        y = g.nn.matmul(g.nn.softmax(scores, axis=3), turned[2])
        return g.view.transpose(y, perm=(0, 3, 1, 2))

    def _unit(self, g: Rewriter, x: Value) -> Value:
        length = g.ew.sqrt(total(g, g.ew.mul(x, x), 3))
        return g.ew.div(x, g.ew.clip(length, low=1e-12))


class KolmogorovArnoldAttention(NodeRule):
    """kolmogorov_arnold_attention -> cosines and sines of the scores by Chebyshev's recurrence, and products."""

    ops = ("nn.kolmogorov_arnold_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k, v = (by_heads(g, need(node, position)) for position in range(3))
        cosine, sine, projection = (need(node, position) for position in range(3, 6))
        scores = g.ew.mul(g.nn.matmul(q, swapped(g, k)), node.attrs["scale"])
        first = {"cos": g.ew.cos(scores), "sin": g.ew.sin(scores)}
        last = {"cos": [1.0, first["cos"]], "sin": [0.0, first["sin"]]}
        hidden_units = None
        for order in range(int(cosine.shape[3])):
            for name, weights in (("cos", cosine), ("sin", sine)):
                term = g.nn.matmul(last[name][1], self._transposed(g, weights, order))
                hidden_units = term if hidden_units is None else g.ew.add(hidden_units, term)
                older, newer = last[name]
                last[name] = [newer, g.ew.sub(g.ew.mul(g.ew.mul(first["cos"], newer), 2.0), older)]
        return by_heads(g, g.nn.matmul(g.nn.matmul(hidden_units, swapped(g, projection)), v))

    def _transposed(self, g: Rewriter, weights: Value, order: int) -> Value:
        """[H, T, R] coefficients of one multiple."""
        part = g.view.slice(weights, axis=3, start=order, stop=order + 1)
        return swapped(g, g.view.reshape(part, shape=part.shape[:3]))
