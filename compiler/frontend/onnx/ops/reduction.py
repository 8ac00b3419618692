"""Reductions over axes, searches and running sums."""

from __future__ import annotations

from math import inf

import numpy as np

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value
from nomul.ir.types import DType


def _reduce(n: SourceNode, op: str, x: Value) -> Value:
    """One reduction over the node's axes: all of them when none are named (or none at all, when the node says so)."""
    listed = n.ints(1, "axes")
    if not listed and n.attr("noop_with_empty_axes", 0):
        return x
    axes = n.axes(listed) if listed else tuple(range(n.rank()))
    return _over(n, op, x, axes, bool(n.attr("keepdims", 1)))


def _over(n: SourceNode, op: str, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    """A reduction; the largest or smallest of nothing is the end of the type's range."""
    if not axes:
        return x
    if op in ("reduce.max", "reduce.min") and any(x.shape[axis] == 0 for axis in axes):
        limits = (-inf, inf) if x.dtype.is_float else (np.iinfo(x.dtype.numpy).min, np.iinfo(x.dtype.numpy).max)
        sizes = [Dim.of(1) if axis in axes else size for axis, size in enumerate(x.shape)]
        kept = [size for axis, size in enumerate(sizes) if keepdims or axis not in axes]
        return n.b.make.full(shape=kept, value=limits[op == "reduce.min"], dtype=x.dtype)
    return n.b.op(op, x, axes=axes, keepdims=keepdims)


@onnx_op("ReduceSum", "ReduceProd")
def plain(n: SourceNode) -> Value:
    return _reduce(n, {"ReduceSum": "reduce.sum", "ReduceProd": "reduce.prod"}[n.op_type], n.tensor())


@onnx_op("ReduceMax", "ReduceMin")
def extreme(n: SourceNode) -> Value:
    """The largest of booleans is whether any is true."""
    largest = n.op_type == "ReduceMax"
    if n.dtype() is DType.BOOL:
        return _reduce(n, "reduce.any" if largest else "reduce.all", n.tensor())
    return _reduce(n, "reduce.max" if largest else "reduce.min", n.tensor())


@onnx_op("ReduceMean")
def mean(n: SourceNode) -> Value:
    x = n.tensor()
    return _reduce(n, "reduce.mean", x) if x.dtype.is_float else _integer_mean(n, x)


def _integer_mean(n: SourceNode, x: Value) -> Value:
    total = _reduce(n, "reduce.sum", x)
    listed = n.ints(1, "axes")
    axes = n.axes(listed) if listed else tuple(range(n.rank()))
    count = product([x.shape[axis] for axis in axes])
    return n.b.ew.div(total, int(count) if count.is_constant else n.cast(n.b.make.size(size=count), x.dtype))


@onnx_op("ReduceL1")
def l1(n: SourceNode) -> Value:
    return _reduce(n, "reduce.sum", n.b.ew.abs(n.tensor()))


@onnx_op("ReduceL2")
def l2(n: SourceNode) -> Value:
    x = n.tensor()
    return n.b.ew.sqrt(_reduce(n, "reduce.sum", n.b.ew.mul(x, x)))


@onnx_op("ReduceSumSquare")
def sum_square(n: SourceNode) -> Value:
    x = n.tensor()
    return _reduce(n, "reduce.sum", n.b.ew.mul(x, x))


@onnx_op("ReduceLogSum")
def log_sum(n: SourceNode) -> Value:
    return n.b.ew.log(_reduce(n, "reduce.sum", n.tensor()))


@onnx_op("ReduceLogSumExp")
def log_sum_exp(n: SourceNode) -> Value:
    """log(sum(exp(x - max))) + max, so that large numbers do not overflow."""
    x, listed = n.tensor(), n.ints(1, "axes")
    if not listed and n.attr("noop_with_empty_axes", 0):
        return x
    axes = n.axes(listed) if listed else tuple(range(n.rank()))
    if not axes:
        return x
    top = _over(n, "reduce.max", x, axes, True)
    top = n.b.ew.where(n.b.ew.is_inf(top), 0.0, top)
    total = n.b.ew.log(n.b.reduce.sum(n.b.ew.exp(n.b.ew.sub(x, top)), axes=axes, keepdims=True))
    result = n.b.ew.add(total, top)
    kept = [size for axis, size in enumerate(x.shape) if axis not in axes]
    return result if n.attr("keepdims", 1) else n.reshape(result, kept)


@onnx_op("ArgMax", "ArgMin")
def search(n: SourceNode) -> Value:
    """select_last_index searches from the other end."""
    op = n.b.reduce.argmax if n.op_type == "ArgMax" else n.b.reduce.argmin
    x, axis, keepdims = n.tensor(), n.axis(n.attr("axis", 0)), bool(n.attr("keepdims", 1))
    if not n.attr("select_last_index", 0):
        return op(x, axis=axis, keepdims=keepdims)
    size = x.shape[axis]
    found = op(n.slice(x, axis, size - 1, -1, -1), axis=axis, keepdims=keepdims)
    last = int(size) - 1 if size.is_constant else n.b.make.size(size=size - 1)
    return n.b.ew.add(n.b.ew.neg(found), last)


@onnx_op("CumSum")
def cumsum(n: SourceNode) -> Value:
    """exclusive: the sums move one place and begin with zero; reverse: they run from the end."""
    x = n.tensor()
    axis = n.axis(int(n.need_constant(1, "the axis").reshape(())))
    size, reverse = x.shape[axis], n.attr("reverse", 0)
    x = n.slice(x, axis, size - 1, -1, -1) if reverse else x
    if n.attr("exclusive", 0):
        before = [1 if i == axis else 0 for i in range(x.type.rank)]
        shorter = n.slice(x, axis, 0, size - 1)
        x = n.b.view.pad(shorter, before=before, after=[Dim.of(0)] * x.type.rank)
    y = n.b.reduce.cumsum(x, axis=axis)
    return n.slice(y, axis, size - 1, -1, -1) if reverse else y
