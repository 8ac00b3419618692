"""Comparisons, logic, selection and conversion."""

from __future__ import annotations

from tvm import tirx

from nomul.backends import storage
from nomul.backends.elements.arithmetic import is_float
from nomul.backends.emit import Expr, compute_type, lanes_of, rule
from nomul.backends.expressions import bind, constant, differ, is_infinite, not_equal
from nomul.ir.graph import Node
from nomul.ir.types import DType


def _is_bool(x: Expr) -> bool:
    return bool(x.ty.dtype.startswith("bool"))


@rule("ew.eq")
def eq(node: Node, x: Expr, y: Expr) -> Expr:
    if is_float(x) and x.same_as(y):
        return tirx.Not(tirx.isnan(x))  # TVM would make x == x true
    return tirx.Not(differ(x, y)) if _is_bool(x) else tirx.EQ(x, y)


@rule("ew.ne")
def ne(node: Node, x: Expr, y: Expr) -> Expr:
    if is_float(x) and x.same_as(y):
        return tirx.isnan(x)
    return differ(x, y) if _is_bool(x) else not_equal(x, y)


@rule("ew.lt")
def lt(node: Node, x: Expr, y: Expr) -> Expr:
    return x < y


@rule("ew.le")
def le(node: Node, x: Expr, y: Expr) -> Expr:
    return x <= y


@rule("ew.gt")
def gt(node: Node, x: Expr, y: Expr) -> Expr:
    return x > y


@rule("ew.ge")
def ge(node: Node, x: Expr, y: Expr) -> Expr:
    return x >= y


@rule("ew.and")
def and_(node: Node, x: Expr, y: Expr) -> Expr:
    return tirx.And(x, y)


@rule("ew.or")
def or_(node: Node, x: Expr, y: Expr) -> Expr:
    return tirx.Or(x, y)


@rule("ew.xor")
def xor(node: Node, x: Expr, y: Expr) -> Expr:
    return differ(x, y)


@rule("ew.not")
def not_(node: Node, x: Expr) -> Expr:
    return tirx.Not(x)


@rule("ew.is_nan")
def is_nan(node: Node, x: Expr) -> Expr:
    return tirx.isnan(x)


@rule("ew.is_inf")
def is_inf(node: Node, x: Expr) -> Expr:
    return is_infinite(x)


@rule("ew.where")
def where(node: Node, condition: Expr, x: Expr, y: Expr) -> Expr:
    return tirx.Select(condition, x, y)


@rule("ew.cast")
def cast(node: Node, x: Expr) -> Expr:
    dtype: DType = node.attrs["dtype"]
    goal = compute_type(dtype, lanes_of(x))
    if dtype is DType.BOOL:
        return x if _is_bool(x) else not_equal(x, constant(x, 0))
    if is_float(x) and dtype.is_integer:
        return _float_to_integer(x, dtype)
    value = x if x.ty.dtype == goal else bind(tirx.Cast(goal, x))
    return storage.rounded(value, dtype)


def _float_to_integer(x: Expr, dtype: DType) -> Expr:
    """Truncation; NaN gives 0, what lies outside i64 (or i32, through which the narrow types go) is limited to it."""
    bits = 64 if dtype is DType.I64 else 32
    high = 2.0 ** (bits - 1) * (1 - 2.0**-24) if "32" in x.ty.dtype else 2.0 ** (bits - 1) - (1024 if bits == 64 else 1)
    x = bind(tirx.Select(x > constant(x, high), constant(x, high), x))
    x = bind(tirx.Select(x < constant(x, -(2.0 ** (bits - 1))), constant(x, -(2.0 ** (bits - 1))), x))
    x = bind(tirx.Select(tirx.isnan(x), constant(x, 0.0), x))
    lanes = lanes_of(x)
    middle = compute_type(DType.I64 if bits == 64 else DType.I32, lanes)
    whole = tirx.Cast(middle, x)
    goal = compute_type(dtype, lanes)
    return whole if goal == middle else tirx.Cast(goal, bind(whole))
