"""Attention without softmax as matrix products."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.expand.terms import as_float, by_heads, need, total


def features(g: Rewriter, x: Value, name: str) -> Value:
    """The feature map of linear attention."""
    if name == "identity":
        return x
    if name == "softmax":
        return g.nn.softmax(x, axis=x.type.rank - 1)
    return g.ew.add(g.ew.elu(x), 1.0) if name == "elu" else {"relu": g.ew.relu, "exp": g.ew.exp}[name](x)


class HedgehogMap(NodeRule):
    """hedgehog_map -> a product with the learned weights, then both softmaxes."""

    ops = ("nn.hedgehog_map",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        y = g.nn.matmul(by_heads(g, need(node, 0)), need(node, 1))
        parts = [y, g.ew.neg(y)]
        if node.attrs["form"] == "softmax":
            found = [g.nn.softmax(part, axis=3) for part in parts]
        else:
            tops = [g.reduce.max(part, axes=(3,), keepdims=True) for part in parts]
            found = [g.ew.exp(g.ew.sub(part, top)) for part, top in zip(parts, tops, strict=True)]
        return by_heads(g, g.ew.clip(g.view.concat(*found, axis=3), low=1e-12))


class InlineAttention(NodeRule):
    """inline_attention -> linear attention that nothing divides, and two means."""

    ops = ("nn.inline_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k, v = (need(node, position) for position in range(3))
        scale, count = node.attrs["scale"], as_float(g, k.shape[1], k.dtype)
        share = g.ew.div(scale, count) if isinstance(count, Value) else scale / count
        means = [g.reduce.mean(x, axes=(1,), keepdims=True) for x in (k, v)]
        rest = g.ew.sub(1.0, g.ew.mul(total(g, g.ew.mul(q, means[0]), 3), scale))
        far = g.nn.linear_attention(q, k, v, map="identity", normalise=False)
        y = g.ew.add(g.ew.mul(far, share), g.ew.mul(rest, means[1]))
        local = node.operand(3)
        return y if local is None else g.ew.add(y, self._neighbours(g, v, local, node.attrs["width"]))

    def _neighbours(self, g: Rewriter, v: Value, local: Value, width: int) -> Value:
        """Each token's 3 x 3 neighbours in the image by their weights."""
        batch, tokens, heads, size = v.shape
        rows = tokens.divide_exactly(Dim.of(width))
        image = g.view.reshape(v, shape=(batch, rows, width, heads, size))
        image = g.view.pad(image, before=(0, 1, 1, 0, 0), after=(0, 1, 1, 0, 0))
        result = None
        for place in range(9):
            part = g.view.slice(image, axis=1, start=place // 3, stop=rows + place // 3)
            part = g.view.slice(part, axis=2, start=place % 3, stop=width + place % 3)
            weight = g.view.slice(local, axis=1, start=place, stop=place + 1)
            part = g.ew.mul(g.view.reshape(part, shape=v.shape), weight)
            result = part if result is None else g.ew.add(result, part)
        assert result is not None
        return result


class LigerAttention(NodeRule):
    """liger_attention -> gated linear attention and softmax attention in a window, half of each."""

    ops = ("nn.liger_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k, v, q_rotary, k_rotary, decay = (need(node, position) for position in range(6))
        gated = g.nn.linear_attention(q, k, v, decay, map="softmax", causal=True, normalise=False)
        near = g.nn.attention(q_rotary, k_rotary, v, causal=True, **node.attrs)
        return g.ew.mul(g.ew.add(gated, near), 0.5)
