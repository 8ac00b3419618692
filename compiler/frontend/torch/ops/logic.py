"""Comparison, logic, selection and conversion of element types."""

from __future__ import annotations

from typing import Any

import torch

from nomul.frontend.torch.dtypes import common_dtype
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.graph import Value
from nomul.ir.types import DType

_ORDERED = ("lt", "le", "gt", "ge")


def _declare_comparison(name: str) -> None:
    def lower(g: Lowering, x: Operand, y: Operand) -> Any:
        dtype = common_dtype([x, y])
        dtype = DType.I32 if dtype is DType.BOOL and name in _ORDERED else dtype
        return g.elementwise(f"ew.{name}", [x, y], dtype)

    aten(name, lazy=True)(lower)


for _name in ("eq", "ne", *_ORDERED):
    _declare_comparison(_name)


def _declare_logic(op: str) -> None:
    def logical(g: Lowering, x: Operand, y: Operand) -> Any:
        return g.elementwise(f"ew.{op}", [x, y], DType.BOOL)

    def bitwise(g: Lowering, x: Operand, y: Operand) -> Any:
        if common_dtype([x, y]) is not DType.BOOL:
            raise g.unsupported("bitwise logic is supported for bools only")
        return logical(g, x, y)

    aten(f"logical_{op}", lazy=True)(logical)
    aten(f"bitwise_{op}", f"__{op}__", lazy=True)(bitwise)


for _name in ("and", "or", "xor"):
    _declare_logic(_name)


@aten("logical_not", lazy=True)
def logical_not(g: Lowering, x: Operand) -> Any:
    return g.elementwise("ew.not", [x], DType.BOOL)


@aten("bitwise_not", lazy=True)
def bitwise_not(g: Lowering, x: Operand) -> Any:
    """-x - 1 for integers."""
    dtype = g.dtype()
    if dtype is DType.BOOL:
        return logical_not(g, x)
    return g.elementwise("ew.sub", [g.elementwise("ew.neg", [x], dtype), 1], dtype)


def _of_float(g: Lowering, op: str, x: Value) -> Any:
    """Integers are neither NaN nor infinite."""
    return g.b.op(op, x) if x.dtype.is_float else g.b.make.full(shape=x.shape, value=0.0, dtype=DType.BOOL)


@aten("isnan")
def isnan(g: Lowering, x: Value) -> Value:
    return _of_float(g, "ew.is_nan", x)


@aten("isinf")
def isinf(g: Lowering, x: Value) -> Value:
    return _of_float(g, "ew.is_inf", x)


@aten("isfinite")
def isfinite(g: Lowering, x: Value) -> Value:
    return g.b.ew.not_(g.b.ew.or_(isnan(g, x), isinf(g, x)))


@aten("nan_to_num")
def nan_to_num(g: Lowering, x: Value, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Value:
    if not x.dtype.is_float:
        return x
    info = torch.finfo(g.meta().dtype)
    high, low = (info.max if posinf is None else posinf), (info.min if neginf is None else neginf)
    y = g.b.ew.where(g.b.ew.is_nan(x), float(nan or 0.0), x)
    y = g.b.ew.where(g.b.ew.eq(y, float("inf")), float(high), y)
    return g.b.ew.where(g.b.ew.eq(y, float("-inf")), float(low), y)


@aten("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar", lazy=True)
def where(g: Lowering, condition: Operand, x: Operand, y: Operand) -> Any:
    return select(g, condition, x, y, g.dtype())


@aten("masked_fill", lazy=True)
def masked_fill(g: Lowering, x: Operand, mask: Operand, value: Operand) -> Any:
    return select(g, mask, value, x, g.dtype())


def select(g: Lowering, condition: Operand, x: Operand, y: Operand, dtype: DType) -> Value:
    """x where the condition holds, else y, in `dtype`."""
    shape = g.broadcast_shape(condition, x, y)
    parts = g.compact(condition, DType.BOOL), g.compact(x, dtype), g.compact(y, dtype)
    return g.expand(g.b.ew.where(*parts), shape)


@aten("_to_copy", "to", "type_as", lazy=True)
def convert(g: Lowering, x: Operand, *unused: Any, **ignored: Any) -> Any:
    """torch has already worked out the type."""
    return g.value(x, g.dtype())


@aten("prims.convert_element_type", lazy=True)
def convert_element_type(g: Lowering, x: Operand, dtype: torch.dtype) -> Any:
    return convert(g, x)
