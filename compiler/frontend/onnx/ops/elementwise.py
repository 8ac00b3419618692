"""Element-wise arithmetic, comparison, logic and conversion."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import inf

import numpy as np

from nomul.frontend.onnx.formula import combined, counter
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.frontend.onnx.tensors import ir_dtype
from nomul.ir.graph import Constant, Value
from nomul.ir.types import DType

_UNARY = {
    "Abs": "ew.abs",
    "Ceil": "ew.ceil",
    "Cos": "ew.cos",
    "Erf": "ew.erf",
    "Exp": "ew.exp",
    "Floor": "ew.floor",
    "IsNaN": "ew.is_nan",
    "Log": "ew.log",
    "Neg": "ew.neg",
    "Not": "ew.not",
    "Reciprocal": "ew.reciprocal",
    "Relu": "ew.relu",
    "Round": "ew.round",
    "Sigmoid": "ew.sigmoid",
    "Sign": "ew.sign",
    "Sin": "ew.sin",
    "Softplus": "ew.softplus",
    "Sqrt": "ew.sqrt",
    "Tanh": "ew.tanh",
    "Mish": "ew.mish",
}
_BINARY = {
    "Add": "ew.add",
    "Sub": "ew.sub",
    "Mul": "ew.mul",
    "Div": "ew.div",
    "And": "ew.and",
    "Or": "ew.or",
    "Xor": "ew.xor",
    "Equal": "ew.eq",
    "Less": "ew.lt",
    "LessOrEqual": "ew.le",
    "Greater": "ew.gt",
    "GreaterOrEqual": "ew.ge",
    "Where": "ew.where",
}


# Of the bounds of left - right: whether the comparison always holds, and whether it never does.
_COMPARISONS: dict[str, Callable[[float, float], tuple[bool, bool]]] = {
    "Less": lambda low, high: (high < 0, low >= 0),
    "LessOrEqual": lambda low, high: (high <= 0, low > 0),
    "Greater": lambda low, high: (low > 0, high <= 0),
    "GreaterOrEqual": lambda low, high: (low >= 0, high < 0),
}


@onnx_op(*_UNARY)
def unary(n: SourceNode) -> Value:
    return n.b.op(_UNARY[n.op_type], n.value())


@onnx_op(*_BINARY)
def binary(n: SourceNode) -> Value:
    if n.attr("broadcast"):
        n.unsupported("broadcasting by attribute, of operator sets before 7, is not supported")
    return _decided(n) or n.broadcasting(_BINARY[n.op_type])


def _decided(n: SourceNode) -> Value | None:
    """Comparisons of positions that the ranges of dims decide, and what follows from them: parts of attention masks."""
    if n.op_type in ("And", "Or"):
        return _with_uniform(n)
    if n.op_type not in _COMPARISONS:
        return None
    left, right = counter(n.value(0)), counter(n.value(1))
    if left is None or right is None:
        return None
    shape = n.broadcast(left.shape, right.shape)
    low, high = combined(left, right, shape, -1).bounds(n.importer.ranges)
    always, never = _COMPARISONS[n.op_type](low, high)
    return n.full(shape, float(always), DType.BOOL) if always or never else None


def _with_uniform(n: SourceNode) -> Value | None:
    """`x and true` is x, `x and false` is false; `or` the other way round."""
    shape = n.broadcast(n.shape(0), n.shape(1))
    for index in (0, 1):
        uniform = n.uniform_operand(index)
        if uniform is not None:
            neutral = bool(uniform) == (n.op_type == "And")
            return n.expand(n.tensor(1 - index), shape) if neutral else n.full(shape, uniform, DType.BOOL)
    return None


@onnx_op("Identity", "Dropout")
def identity(n: SourceNode) -> tuple[object, ...]:
    """Dropout passes its operand on when the model is used; its mask is all true."""
    if n.has(2) and n.need_constant(2, "training_mode").item():
        n.unsupported("training mode is not supported")
    if len(n.outputs) == 1:
        return (n.operands[0],)
    mask = DType.BOOL if n.opset >= 10 else n.dtype()
    return (n.operands[0], n.b.make.full(shape=n.shape(), value=1, dtype=mask))


@onnx_op("Cast")
def cast(n: SourceNode) -> Value:
    return _cast(n, ir_dtype(n.need_attr("to"), "the result of a cast"))


@onnx_op("CastLike")
def cast_like(n: SourceNode) -> Value:
    return _cast(n, n.dtype(1))


def _cast(n: SourceNode, dtype: DType) -> Value:
    value = n.value()
    if dtype is DType.BOOL and value.dtype is not DType.BOOL:
        return n.b.ew.ne(value, 0)
    return n.cast(value, dtype)


@onnx_op("Sum", "Mean", "Max", "Min")
def variadic(n: SourceNode) -> Value:
    op = {"Sum": "ew.add", "Mean": "ew.add", "Max": "ew.max", "Min": "ew.min"}[n.op_type]
    n.broadcast(*(n.shape(index) for index in range(len(n.operands))))
    total = reduce(lambda x, y: n.b.op(op, x, y), (n.value(index) for index in range(len(n.operands))))
    return n.b.ew.mul(total, 1 / len(n.operands)) if n.op_type == "Mean" else total


@onnx_op("Mod")
def mod(n: SourceNode) -> Value:
    return n.broadcasting("ew.fmod" if n.attr("fmod", 0) else "ew.mod")


@onnx_op("Pow")
def pow(n: SourceNode) -> Value:
    """Small whole exponents become products, 0.5 a root; the exponent may have another dtype than the base."""
    exponent = n.constant(1)
    if exponent is not None and exponent.size == 1 and len(exponent.shape) <= n.rank():
        power = float(exponent.reshape(()))
        x = n.value()
        if power in (1.0, 2.0, 3.0):
            return reduce(lambda y, _: n.b.ew.mul(y, x), range(int(power) - 1), n.b.ew.mul(x, 1) if power == 1 else x)
        if power == 0.5 and x.dtype.is_float:
            return n.b.ew.sqrt(x)
    n.broadcast(n.shape(0), n.shape(1))
    working = n.dtype() if n.dtype().is_float else DType.F64
    x, y = (_converted(n, n.literal(n.entry(i), n.rank(1 - i), [n.entry(1 - i)]), working) for i in (0, 1))
    result = n.b.ew.pow(x, y)
    return n.cast(result if n.dtype().is_float else n.b.ew.round(result), n.dtype())


def _converted(n: SourceNode, value: Value, dtype: DType) -> Value:
    return Constant(value.value, dtype) if isinstance(value, Constant) else n.cast(value, dtype)


@onnx_op("Clip")
def clip(n: SourceNode) -> Value:
    """Constant bounds are attributes; others, and bounds of wide integers, are operands."""
    x, dtype = n.value(), n.dtype()
    if n.opset < 11:
        return n.b.ew.clip(x, low=n.attr("min", -inf), high=n.attr("max", inf))
    bounds = [n.constant(index) for index in (1, 2)]
    known = all(bound is not None or not n.has(index) for index, bound in enumerate(bounds, 1))
    if known and (dtype.is_float or all(bound is None or abs(int(bound)) <= 2**53 for bound in bounds)):
        low, high = (float(bound.reshape(())) if bound is not None else None for bound in bounds)
        return n.b.ew.clip(x, low=-inf if low is None else low, high=inf if high is None else high)
    x = n.b.ew.max(x, n.value(1)) if n.has(1) else x
    return n.b.ew.min(x, n.value(2)) if n.has(2) else n.b.ew.max(x, x)


@onnx_op("IsInf")
def is_inf(n: SourceNode) -> Value:
    x, positive, negative = n.value(), n.attr("detect_positive", 1), n.attr("detect_negative", 1)
    if positive and negative:
        return n.b.ew.is_inf(x)
    if not positive and not negative:
        return n.b.ew.lt(x, x)
    return n.b.ew.eq(x, inf if positive else -inf)


@onnx_op("BitShift")
def bit_shift(n: SourceNode) -> Value:
    """A shift of unsigned numbers by a constant is a product or a quotient."""
    shift = n.need_constant(1, "the shift")
    if n.dtype() is not DType.U8 or shift.max(initial=0) > 7:
        n.unsupported("only shifts of uint8 by less than 8 are supported")
    factors = n.weight((2 ** shift.astype(np.int64)).astype(shift.dtype), "factors")
    op = n.b.ew.mul if n.need_attr("direction") == "LEFT" else n.b.ew.floor_div
    return op(n.value(), factors)


@onnx_op("Tan")
def tan(n: SourceNode) -> Value:
    return n.b.ew.div(n.b.ew.sin(n.value()), n.b.ew.cos(n.value()))


@onnx_op("Sinh", "Cosh")
def hyperbolic(n: SourceNode) -> Value:
    """(exp(x) -+ exp(-x)) / 2."""
    x = n.value()
    up, down = n.b.ew.exp(x), n.b.ew.exp(n.b.ew.neg(x))
    return n.b.ew.mul(n.b.ew.sub(up, down) if n.op_type == "Sinh" else n.b.ew.add(up, down), 0.5)


@onnx_op("Asinh", "Acosh", "Atanh")
def inverse_hyperbolic(n: SourceNode) -> Value:
    """By logarithms; for asinh of |x|, so that large negative numbers do not cancel."""
    b, x = n.b, n.value()
    if n.op_type == "Atanh":
        return b.ew.mul(b.ew.sub(b.ew.log1p(x), b.ew.log1p(b.ew.neg(x))), 0.5)
    square = b.ew.mul(x, x)
    if n.op_type == "Acosh":
        return b.ew.log(b.ew.add(x, b.ew.sqrt(b.ew.sub(square, 1.0))))
    size = b.ew.log(b.ew.add(b.ew.abs(x), b.ew.sqrt(b.ew.add(square, 1.0))))
    return b.ew.mul(b.ew.sign(x), size)
