"""Latent attention and rotary positions."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.expand.terms import need


class LatentAttention(NodeRule):
    """latent_attention -> attention of one key head, whose values are the first part of its keys."""

    ops = ("nn.latent_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, latent = (
            g.view.concat(need(node, first), need(node, second), axis=axis)
            for first, second, axis in ((0, 1, 3), (2, 3, 2))
        )
        keys, values = (g.view.reshape(x, shape=(*x.shape[:2], ONE, x.shape[2])) for x in (latent, need(node, 2)))
        return g.nn.attention(q, keys, values, node.operand(4), **node.attrs)


class Rotary(NodeRule):
    """rotary -> slices turned by sines and cosines, put together again."""

    ops = ("nn.rotary",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x = need(node, 0)
        cos, sin = (g.view.reshape(a, shape=(*a.shape[:2], ONE, a.shape[2])) for a in (need(node, 1), need(node, 2)))
        pairs = cos.shape[3]
        turned, rest = x, None
        if x.shape[3] != pairs * 2:
            turned = g.view.slice(x, axis=3, stop=pairs * 2)
            rest = g.view.slice(x, axis=3, start=pairs * 2, stop=x.shape[3])
        interleaved = node.attrs["interleaved"]
        if interleaved:
            turned = g.view.reshape(turned, shape=(*x.shape[:3], pairs, Dim.of(2)))
            cos, sin = (g.view.reshape(a, shape=(*a.shape, ONE)) for a in (cos, sin))
        axis, half = (4, ONE) if interleaved else (3, pairs)
        first, second = (g.view.slice(turned, axis=axis, start=half * i, stop=half * (i + 1)) for i in (0, 1))
        parts = [
            g.ew.sub(g.ew.mul(first, cos), g.ew.mul(second, sin)),
            g.ew.add(g.ew.mul(second, cos), g.ew.mul(first, sin)),
        ]
        y = g.view.concat(*parts, axis=axis)
        if interleaved:
            y = g.view.reshape(y, shape=(*x.shape[:3], pairs * 2))
        return y if rest is None else g.view.concat(y, rest, axis=3)
