"""Quantised models: weights become floats at import, activations keep their rounding as element-wise ops."""

from __future__ import annotations

from math import prod

import numpy as np

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.ops.convolution import convolve
from nomul.frontend.onnx.ops.linear import product_of
from nomul.frontend.onnx.registry import onnx_op
from nomul.frontend.onnx.tensors import ir_dtype
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType

_LIMITS = {DType.U8: (0, 255), DType.I8: (-128, 127), DType.I16: (-32768, 32767)}


@onnx_op("DequantizeLinear")
def dequantize(n: SourceNode) -> Value | np.ndarray:
    """(x - zero point) * scale; of constants it is computed here."""
    arrays = [n.constant(index) for index in range(3)]
    if arrays[0] is not None and arrays[1] is not None and (arrays[2] is not None or not n.has(2)):
        return _dequantized(n, arrays[0], arrays[1], arrays[2])
    return dequantize_at(n, 0, 1, 2)


def dequantize_at(n: SourceNode, x: int, scale: int, zero_point: int) -> Value:
    """The operand at `x` as floats of the scale's dtype."""
    factor = _along_axis(n, n.tensor(scale), n.shape(x))
    value = n.cast(n.tensor(x), factor.dtype)
    if n.has(zero_point):
        value = n.b.ew.sub(value, _along_axis(n, n.cast(n.tensor(zero_point), factor.dtype), n.shape(x)))
    return n.b.ew.mul(value, factor)


def _dequantized(n: SourceNode, x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    scale = _spread(n, scale, x.shape)
    wide = x.astype(np.float32 if x.dtype.itemsize < 4 else np.float64)
    if zero_point is not None:
        wide = wide - _spread(n, zero_point, x.shape).astype(wide.dtype)
    return (wide * scale).astype(scale.dtype)


def _spread(n: SourceNode, parameter: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A scale or zero point that broadcasts to the shape: one number, one an index of the axis, or one a block."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis = n.axis(n.attr("axis", 1), len(shape))
    if parameter.ndim == 1:
        return parameter.reshape([-1 if place == axis else 1 for place in range(len(shape))])
    block = n.attr("block_size", 0) or -(-shape[axis] // parameter.shape[axis])
    repeated = np.repeat(parameter, block, axis=axis)
    return np.take(repeated, np.arange(shape[axis]), axis=axis)


def _along_axis(n: SourceNode, parameter: Value, shape: tuple[Dim, ...]) -> Value:
    """The same for values of the graph."""
    if parameter.type.numel == 1:
        return n.reshape(parameter, ())
    axis = n.axis(n.attr("axis", 1), len(shape))
    if parameter.type.rank == 1:
        return n.reshape(parameter, [parameter.shape[0] if place == axis else 1 for place in range(len(shape))])
    blocks = parameter.shape[axis]
    block = n.attr("block_size", 0) or int(n.divide(shape[axis], blocks))
    split = (*parameter.shape[: axis + 1], Dim.of(1), *parameter.shape[axis + 1 :])
    wide = n.b.view.expand(n.reshape(parameter, split), shape=(*split[: axis + 1], Dim.of(block), *split[axis + 2 :]))
    return n.reshape(wide, (*shape[:axis], blocks * block, *shape[axis + 1 :]))


@onnx_op("QuantizeLinear")
def quantize(n: SourceNode) -> Value:
    """round(x / scale) + zero point, limited to the result's type."""
    if n.has(2):
        dtype = n.dtype(2)
    else:
        dtype = ir_dtype(n.attr("output_dtype"), "the result") if n.attr("output_dtype", 0) else DType.U8
    zero_point = n.tensor(2) if n.has(2) else None
    return quantize_value(n, n.tensor(), n.tensor(1), zero_point, dtype)


def quantize_value(n: SourceNode, x: Value, scale: Value, zero_point: Value | None, dtype: DType) -> Value:
    """The same for given values."""
    if dtype not in _LIMITS:
        n.unsupported(f"quantising to {dtype} is not supported")
    factor = _along_axis(n, n.cast(scale, x.dtype), x.shape)
    y = n.b.ew.round(n.b.ew.div(x, factor))
    if zero_point is not None:
        y = n.b.ew.add(y, _along_axis(n, n.cast(zero_point, x.dtype), x.shape))
    low, high = _LIMITS[dtype]
    return n.cast(n.b.ew.clip(y, low=low, high=high), dtype)


@onnx_op("QLinearMatMul")
def quantized_matmul(n: SourceNode) -> Value:
    if any(prod(int(size) for size in n.shape(index)) != 1 for index in (1, 2, 4, 5, 6, 7)):
        n.unsupported("only one scale for each operand is supported")
    y = product_of(n, dequantize_at(n, 0, 1, 2), dequantize_at(n, 3, 4, 5))
    return quantize_value(n, y, n.tensor(6), n.tensor(7), n.dtype(7))


@onnx_op("QLinearConv")
def quantized_conv(n: SourceNode) -> Value:
    """Dequantise, convolve, quantise; weights may have a scale for each output channel (axis 0), the bias has the
    product of the scales."""
    x = dequantize_at(n, 0, 1, 2)
    scale = _per_output(n, 4)
    weights = n.b.ew.mul(n.b.ew.sub(n.cast(n.tensor(3), scale.dtype), n.cast(_per_output(n, 5), scale.dtype)), scale)
    bias = None
    if n.has(8):
        step = n.b.ew.mul(n.reshape(n.tensor(4), (n.type(4).numel,)), n.reshape(n.tensor(1), ()))
        bias = n.b.ew.mul(n.cast(n.tensor(8), scale.dtype), step)
    y = convolve(n, x, weights, bias)
    return quantize_value(n, y, n.tensor(6), n.tensor(7), n.dtype(7))


def _per_output(n: SourceNode, index: int) -> Value:
    """A weight's scale or zero point, shaped to broadcast along its first axis."""
    count = n.type(index).numel
    return n.reshape(n.tensor(index), () if count == 1 else (count, *[Dim.of(1)] * (n.rank(3) - 1)))


@onnx_op("ConvInteger")
def integer_conv(n: SourceNode) -> Value:
    """Integers without their zero points, convolved as f64."""
    x, weights = (n.cast(n.tensor(index), DType.F64) for index in (0, 1))
    x = n.b.ew.sub(x, n.cast(n.reshape(n.tensor(2), ()), DType.F64)) if n.has(2) else x
    if n.has(3):
        count = n.type(3).numel
        shape = () if count == 1 else (count, *[Dim.of(1)] * (n.rank(1) - 1))
        weights = n.b.ew.sub(weights, n.cast(n.reshape(n.tensor(3), shape), DType.F64))
    return n.cast(convolve(n, x, weights, None), DType.I32)
