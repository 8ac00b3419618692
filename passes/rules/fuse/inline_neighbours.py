"""The neighbours that InLine attention adds to each token: a convolution of its values with computed kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.graph import Node, Value
from nomul.ir.interpreter import concrete
from nomul.ir.views import view_chain
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

_PLAIN = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "layout": "nchw", "act": "f32"}


class InlineNeighbours(NodeRule):
    """inline_attention + conv2d(its values as images, 3 x 3 kernels of each channel) -> inline_attention with these."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for one, other in (node.args, node.args[::-1]):
            assert one is not None and other is not None
            attention, conv = _Seen.of(one), _Seen.of(other)
            first, second = attention.source.producer, conv.source.producer
            if first is not None and second is not None and _may_be(first, second):
                return attention.again(g, self._built(g, first, attention, second, conv))
        return None

    def _built(self, g: Rewriter, attention: Node, seen: _Seen, conv: Node, image: _Seen) -> Value:
        q, k, v = attention.args[:3]
        x, kernels = conv.args[:2]
        assert q is not None and k is not None and v is not None and x is not None and kernels is not None
        batch, tokens, heads, size = (int(extent) for extent in v.shape)
        width = int(x.shape[3])
        channels = batch * heads * size
        if (int(x.shape[1]), int(x.shape[2]) * width) != (channels, tokens) or q.shape[1] != v.shape[1]:
            raise NoMatch(f"images {x.type} do not have a channel for each number of the {tokens} values", x)
        if not _in_order(seen, v, image, x):
            raise NoMatch("the neighbours that are added are not those of the values in the image", x)
        local = g.view.reshape(kernels, shape=(batch, heads, size, 9))
        local = g.view.transpose(local, perm=(0, 3, 1, 2))
        y: Value = g.nn.inline_attention(q, k, v, local, scale=attention.attrs["scale"], width=width)
        return y


def _may_be(attention: Node, conv: Node) -> bool:
    """Whether these are attention without neighbours and a convolution with one 3 x 3 kernel for each channel."""
    if attention.op != "nn.inline_attention" or conv.op != "nn.conv2d":
        return False
    if attention.operand(3) is not None or conv.operand(2) is not None:
        return False
    x, kernels, v = conv.args[0], conv.args[1], attention.args[2]
    assert x is not None and kernels is not None and v is not None
    if any(extent.value is None for value in (x, v) for extent in value.shape):
        return False
    plain = all(conv.attrs[name] == value for name, value in _PLAIN.items())
    return plain and kernels.shape[1:] == (1, 3, 3) and kernels.shape[0] == x.shape[1] and x.shape[0] == 1


@dataclass(frozen=True)
class _Seen:
    """A value of known sizes behind views, the first to be applied first."""

    source: Value
    views: tuple[Node, ...]

    @staticmethod
    def of(value: Value) -> _Seen:
        views = view_chain(value)[::-1]
        source = views[0].args[0] if views else value
        assert source is not None
        return _Seen(source, tuple(views))

    def places(self) -> np.ndarray:
        """Which element of the source each element is."""
        found = np.arange(int(self.source.type.numel)).reshape([int(extent) for extent in self.source.shape])
        for node in self.views:
            found = node.spec.function(found, **{name: concrete(value, {}) for name, value in node.attrs.items()})
        return found

    def again(self, g: Rewriter, value: Value) -> Value:
        """The same views of another value."""
        for node in self.views:
            value = g.op(node.op, value, **node.attrs)
        return value


def _in_order(attention: _Seen, v: Value, neighbours: _Seen, x: Value) -> bool:
    """Whether each number is added to what the convolution makes of the same number of the values, where channel
    (b, h, e) and pixel t of the images are token t of the values in raster order."""
    values, images = _Seen.of(v), _Seen.of(x)
    if values.source is not images.source:
        return False
    batch, tokens, heads, size = (int(extent) for extent in v.shape)
    in_values, in_images = values.places(), images.places().reshape(batch, heads, size, tokens)
    if not np.array_equal(in_values, in_images.transpose(0, 3, 1, 2)):
        return False
    to, added = attention.places(), neighbours.places()
    channel_of = np.arange(in_values.size).reshape(batch, heads, size, tokens).transpose(0, 3, 1, 2)
    return bool(np.array_equal(channel_of.reshape(-1)[to], added))
