"""Activations, softmax and dropouts of neural networks."""

from __future__ import annotations

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value


@onnx_op("LeakyRelu")
def leaky_relu(n: SourceNode) -> Value:
    return n.b.ew.leaky_relu(n.value(), slope=n.attr("alpha", 0.01))


@onnx_op("Elu")
def elu(n: SourceNode) -> Value:
    return n.b.ew.elu(n.value(), alpha=n.attr("alpha", 1.0))


@onnx_op("Selu")
def selu(n: SourceNode) -> Value:
    alpha, gamma = n.attr("alpha", 1.67326319217681884765625), n.attr("gamma", 1.05070102214813232421875)
    return n.b.ew.mul(n.b.ew.elu(n.value(), alpha=alpha), gamma)


@onnx_op("Celu")
def celu(n: SourceNode) -> Value:
    """max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)."""
    alpha, x = n.attr("alpha", 1.0), n.value()
    return n.b.ew.mul(n.b.ew.elu(n.b.ew.mul(x, 1 / alpha)), alpha)


@onnx_op("ThresholdedRelu")
def thresholded_relu(n: SourceNode) -> Value:
    x = n.value()
    return n.b.ew.where(n.b.ew.gt(x, n.attr("alpha", 1.0)), x, 0.0)


@onnx_op("PRelu")
def prelu(n: SourceNode) -> Value:
    """x where it is not negative, else slope * x."""
    slope = n.constant(1)
    if slope is not None and slope.size == 1 and n.dtype().is_float:
        return n.b.ew.leaky_relu(n.value(), slope=float(slope.reshape(())))
    x, slopes = n.value(), n.tensor(1)
    if n.opset < 7 and slopes.type.rank == 1:  # one for each channel, before broadcasting was numpy's
        slopes = n.reshape(slopes, (slopes.shape[0], *[1] * (x.type.rank - 2)))
    n.broadcast(x.shape, slopes.shape)
    return n.b.ew.where(n.b.ew.lt(x, 0), n.b.ew.mul(x, slopes), x)


@onnx_op("HardSigmoid")
def hard_sigmoid(n: SourceNode) -> Value:
    return n.b.ew.hard_sigmoid(n.value(), alpha=n.attr("alpha", 0.2), beta=n.attr("beta", 0.5))


@onnx_op("HardSwish")
def hard_swish(n: SourceNode) -> Value:
    return n.b.ew.hard_swish(n.value())


@onnx_op("Gelu")
def gelu(n: SourceNode) -> Value:
    return n.b.ew.gelu(n.value(), approximate=n.attr("approximate", "none"))


@onnx_op("Swish")
def swish(n: SourceNode) -> Value:
    """x * sigmoid(alpha * x)."""
    x, alpha = n.value(), n.attr("alpha", 1.0)
    return n.b.ew.silu(x) if alpha == 1.0 else n.b.ew.mul(x, n.b.ew.sigmoid(n.b.ew.mul(x, alpha)))


@onnx_op("Softsign")
def softsign(n: SourceNode) -> Value:
    x = n.value()
    return n.b.ew.div(x, n.b.ew.add(n.b.ew.abs(x), 1.0))


@onnx_op("Softmax", "LogSoftmax", "Hardmax")
def softmax(n: SourceNode) -> Value:
    """Before operator set 13, all axes from `axis` on count as one."""
    apply = {"Softmax": _softmax, "LogSoftmax": _log_softmax, "Hardmax": _hardmax}[n.op_type]
    x = n.tensor()
    axis = n.axis(n.attr("axis", -1 if n.opset >= 13 else 1))
    if n.opset >= 13 or axis == n.rank() - 1:
        return apply(n, x, axis)
    rows = n.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))
    return n.reshape(apply(n, rows, 1), x.shape)


def _softmax(n: SourceNode, x: Value, axis: int) -> Value:
    return n.b.nn.softmax(x, axis=axis)


def _log_softmax(n: SourceNode, x: Value, axis: int) -> Value:
    return n.b.nn.log_softmax(x, axis=axis)


def _hardmax(n: SourceNode, x: Value, axis: int) -> Value:
    """1 at the first largest element, else 0."""
    places = n.b.make.iota(size=x.shape[axis])
    column = n.reshape(places, [x.shape[axis] if i == axis else Dim.of(1) for i in range(x.type.rank)])
    return n.cast(n.b.ew.eq(n.b.reduce.argmax(x, axis=axis, keepdims=True), column), x.dtype)
