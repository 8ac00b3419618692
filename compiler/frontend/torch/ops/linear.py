"""Matrix products. A weight on the right-hand side becomes nn.linear."""

from __future__ import annotations

from typing import Any

from nomul.frontend.torch.lazy import ONE
from nomul.frontend.torch.lowering import Lowering
from nomul.frontend.torch.registry import aten
from nomul.ir.graph import Value, Weight
from nomul.ir.types import DType


@aten("linear")
def linear(g: Lowering, x: Value, weight: Value, bias: Value | None = None) -> Value:
    if weight.type.rank == 1:  # one output feature: a dot product
        y = g.reshape(linear(g, x, g.reshape(weight, (ONE, *weight.shape))), x.shape[:-1])
        return y if bias is None else g.b.ew.add(y, bias)
    return g.b.nn.linear(x, weight, bias, name=g.name)


@aten("matmul")
def matmul(g: Lowering, x: Value, y: Value) -> Value:
    """Vectors become matrices with one row or column for the product."""
    if not x.dtype.is_float:
        return _integer_matmul(g, x, y)
    left = g.reshape(x, (ONE, *x.shape)) if x.type.rank == 1 else x
    right = g.reshape(y, (*y.shape, ONE)) if y.type.rank == 1 else y
    return g.reshape(_product(g, left, right), g.shape())


def _product(g: Lowering, x: Value, y: Value, bias: Value | None = None) -> Value:
    if isinstance(y, Weight) and y.type.rank == 2:
        return g.b.nn.linear(x, g.transpose(y, (1, 0)), bias, name=g.name)
    result = g.b.nn.matmul(x, y, name=g.name)
    return result if bias is None else g.b.ew.add(result, bias)


def _integer_matmul(g: Lowering, x: Value, y: Value) -> Value:
    """Through f64, which is exact up to 2^53."""
    wide = matmul(g, g.cast(x, DType.F64), g.cast(y, DType.F64))
    return g.cast(wide, g.dtype())


@aten("mm", "bmm", "mv", "dot", "vdot")
def mm(g: Lowering, x: Value, y: Value) -> Value:
    return matmul(g, x, y)


@aten("addmm", "baddbmm", "addmv")
def addmm(g: Lowering, bias: Value, x: Value, y: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    """beta * bias + alpha * (x @ y)."""
    plain = beta == 1 and alpha == 1 and x.dtype.is_float
    if plain and y.type.rank == 2 and bias.shape == (y.shape[1],):
        return _product(g, x, y, bias)
    result = matmul(g, x, y)
    if alpha != 1:
        result = g.value(g.elementwise("ew.mul", [result, alpha], g.dtype()))
    if beta == 0:
        return result
    scaled = bias if beta == 1 else g.elementwise("ew.mul", [bias, beta], g.dtype())
    return g.value(g.elementwise("ew.add", [scaled, result], g.dtype()))


@aten("addbmm")
def addbmm(g: Lowering, bias: Value, x: Value, y: Value, beta: Any = 1, alpha: Any = 1) -> Value:
    total = g.b.reduce.sum(g.b.nn.matmul(x, y), axes=(0,))
    scaled = g.elementwise("ew.mul", [total, alpha], g.dtype())
    return g.value(g.elementwise("ew.add", [g.elementwise("ew.mul", [bias, beta], g.dtype()), scaled], g.dtype()))
