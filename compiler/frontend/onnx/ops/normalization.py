"""Normalisations."""

from __future__ import annotations

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value


@onnx_op("BatchNormalization")
def batch_norm(n: SourceNode) -> Value:
    if n.attr("training_mode", 0) or len([name for name in n.outputs if name]) > 1:
        n.unsupported("training mode is not supported")
    statistics = [n.cast(n.tensor(index), n.dtype()) for index in range(1, 5)]
    return n.b.nn.batch_norm(n.tensor(), *statistics, eps=n.attr("epsilon", 1e-5))


@onnx_op("InstanceNormalization")
def instance_norm(n: SourceNode) -> Value:
    channels = n.shape()[1]
    if channels.value is None:
        n.unsupported("the number of channels must be constant")
    return n.b.nn.group_norm(*n.values(), groups=int(channels), eps=n.attr("epsilon", 1e-5))


@onnx_op("GroupNormalization")
def group_norm(n: SourceNode) -> Value:
    """Until operator set 20, scale and bias are per group."""
    groups, channels = n.need_attr("num_groups"), n.shape()[1]
    gamma, beta = (_per_channel(n, n.tensor(index), groups, channels) for index in (1, 2))
    return n.b.nn.group_norm(n.tensor(), gamma, beta, groups=groups, eps=n.attr("epsilon", 1e-5))


def _per_channel(n: SourceNode, value: Value, groups: int, channels: Dim) -> Value:
    if n.opset >= 21:
        return value
    wide = n.b.view.expand(n.reshape(value, (groups, 1)), shape=(Dim.of(groups), n.divide(channels, groups)))
    return n.reshape(wide, (channels,))


@onnx_op("LayerNormalization")
def layer_norm(n: SourceNode) -> tuple[Value, ...]:
    """Axes from `axis` on count as one. Mean and 1 / deviation are computed apart, where they are used."""
    y = norm_over_tail(n, "nn.layer_norm", [1, 2])
    if not any(n.outputs[1:]):
        return (y,)
    x, axes = n.tensor(), tuple(range(n.axis(n.attr("axis", -1)), n.rank()))
    mean = n.b.reduce.mean(x, axes=axes, keepdims=True)
    centred = n.b.ew.sub(x, mean)
    variance = n.b.reduce.mean(n.b.ew.mul(centred, centred), axes=axes, keepdims=True)
    return y, mean, n.b.ew.rsqrt(n.b.ew.add(variance, n.attr("epsilon", 1e-5)))


@onnx_op("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(n: SourceNode) -> Value:
    return norm_over_tail(n, "nn.rms_norm", [1])


def norm_over_tail(n: SourceNode, op: str, parameters: list[int], x: Value | None = None, eps: float = 1e-5) -> Value:
    """A norm over the axes from `axis` on, joined to one; scale and bias broadcast to them. eps: the default."""
    x = n.tensor() if x is None else x
    axis = n.axis(n.attr("axis", -1), x.type.rank)
    tail = x.shape[axis:]
    rows = n.reshape(x, (*x.shape[:axis], product(tail)))
    given = [_flat(n, index, tail, x) if n.has(index) else None for index in parameters]
    return n.reshape(n.b.op(op, rows, *given, eps=n.attr("epsilon", eps)), x.shape)


def _flat(n: SourceNode, index: int, tail: tuple[Dim, ...], x: Value) -> Value:
    value = n.cast(n.tensor(index), x.dtype)
    if value.shape != tail:
        shape = n.broadcast(value.shape, tail)
        wide = value if shape == value.shape else n.b.view.expand(value, shape=shape)
        return n.reshape(wide, (product(tail),))
    return n.reshape(value, (product(tail),))


@onnx_op("LRN")
def local_response(n: SourceNode) -> Value:
    """x / (bias + alpha / size * sum of squares over `size` channels)^beta; the sum as shifted slices."""
    b, x, size = n.b, n.tensor(), n.need_attr("size")
    low = (size - 1) // 2
    side = [Dim.of(0)] * x.type.rank
    before, after = list(side), list(side)
    before[1], after[1] = Dim.of(low), Dim.of(size - 1 - low)
    squares = b.view.pad(b.ew.mul(x, x), before=before, after=after)
    total = n.slice(squares, 1, 0, x.shape[1])
    for shift in range(1, size):
        total = b.ew.add(total, n.slice(squares, 1, shift, x.shape[1] + shift))
    base = b.ew.add(b.ew.mul(total, n.attr("alpha", 1e-4) / size), n.attr("bias", 1.0))
    return b.ew.div(x, b.ew.pow(base, n.attr("beta", 0.75)))


@onnx_op("LpNormalization")
def lp_norm(n: SourceNode) -> Value:
    """x over its 1- or 2-norm along an axis; 0 where the norm is 0."""
    b, x, axis = n.b, n.tensor(), n.axis(n.attr("axis", -1))
    if n.attr("p", 2) == 1:
        norm = b.reduce.sum(b.ew.abs(x), axes=(axis,), keepdims=True)
    else:
        norm = b.ew.sqrt(b.reduce.sum(b.ew.mul(x, x), axes=(axis,), keepdims=True))
    return b.ew.where(b.ew.eq(norm, 0.0), 0.0, b.ew.div(x, norm))
