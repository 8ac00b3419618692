"""Scales and shifts per channel, biases and padding go into the convolution before (or behind) them."""

from __future__ import annotations

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.passes.graph_tools import is_dense, is_known, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

CONVOLUTIONS = ("nn.conv2d", "nn.conv_transpose2d")


def per_channel(g: Rewriter, conv: Node, known: Value) -> Value | None:
    """A known operand [C, 1, 1] behind a convolution (channels first) as [C]; a literal as it is; else None."""
    channels = conv.result.shape[1]
    if isinstance(known, Constant):
        return known
    if conv.attrs["layout"] != "nchw" or known.shape != (channels, Dim.of(1), Dim.of(1)):
        return None
    return g.view.reshape(known, shape=(channels,), name=known.name)


def output_channels(conv: Node) -> int:
    return int(conv.result.shape[1 if conv.attrs["layout"] == "nchw" else 3])


class BiasIntoConvolution(NodeRule):
    """conv(x, w) + b per channel -> conv(x, w, b)."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        conv, known = produced_by(node.args[0], *CONVOLUTIONS), node.args[1]
        if conv is None or not is_known(known) or known is None:
            return None
        if len(conv.result.users) > 1:
            raise NoMatch("the convolution without bias is used elsewhere", conv)
        bias = per_channel(g, conv, known)
        if bias is None:
            return None
        x, w, *old = conv.args
        if isinstance(bias, Constant):
            bias = g.weight(f"{node.result.name}.bias", np.full(output_channels(conv), bias.value, bias.dtype.numpy))
        return g.op(conv.op, x, w, g.ew.add(old[0], bias, name=bias.name) if old else bias, **conv.attrs)


class ScaleIntoConvolution(NodeRule):
    """conv(x, w, b) * c per channel -> conv(x, w * c, b * c)."""

    ops = ("ew.mul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        conv, known = produced_by(node.args[0], *CONVOLUTIONS), node.args[1]
        if conv is None or not is_known(known) or known is None:
            return None
        scale = per_channel(g, conv, known)
        x, w, *bias = conv.args
        if scale is None or not is_dense(w) or not all(map(is_known, bias)):
            return None
        if len(conv.result.users) > 1:
            raise NoMatch("the unscaled convolution is used elsewhere", conv)
        column = self._column(g, conv, scale)
        if column is None:
            return None
        scaled = g.ew.mul(w, column, name=w.name)
        return g.op(conv.op, x, scaled, *(g.ew.mul(b, scale, name=b.name) for b in bias if b is not None), **conv.attrs)

    @staticmethod
    def _column(g: Rewriter, conv: Node, scale: Value) -> Value | None:
        """The scale in the shape of the weights' output axis."""
        if isinstance(scale, Constant):
            return scale
        if conv.op == "nn.conv2d":
            return g.view.reshape(scale, shape=(*scale.shape, 1, 1, 1))
        return g.view.reshape(scale, shape=(*scale.shape, 1, 1)) if conv.attrs["groups"] == 1 else None


class PadIntoConvolution(NodeRule):
    """conv(pad(x)) with zeros around the image -> conv with larger pads."""

    ops = ("nn.conv2d",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        pad = produced_by(node.args[0], "view.pad")
        if pad is None:
            return None
        if pad.attrs["mode"] != "constant" or pad.attrs["value"] != 0:
            raise NoMatch(f"the padding is {pad.attrs['mode']} {pad.attrs['value']}, not zeros", pad)
        rows = 2 if node.attrs["layout"] == "nchw" else 1
        sizes = [[size.value for size in pad.attrs[side]] for side in ("before", "after")]
        image = [side[rows : rows + 2] for side in sizes]
        others = [size for side in sizes for axis, size in enumerate(side) if axis not in (rows, rows + 1)]
        if any(size is None or size < 0 for side in image for size in side) or any(size != 0 for size in others):
            raise NoMatch("the padding is not of fixed size around the image alone", pad)
        extra = [size or 0 for side in image for size in side]
        pads = tuple(old + new for old, new in zip(node.attrs["pads"], extra, strict=True))
        return g.op(node.op, pad.args[0], *node.args[1:], **(node.attrs | {"pads": pads}))
