"""Arithmetic: sums, products, quotients, remainders, extrema, rounding. Integers never trap: x / 0 is 0."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr, rule
from nomul.backends.expressions import bind, constant, copysign, differ, fma, intrinsic, minus, not_equal
from nomul.ir.graph import Node


def is_float(x: Expr) -> bool:
    return bool(x.ty.dtype.startswith("float"))


def is_literal(x: Expr) -> bool:
    return literal_of(x) is not None


def literal_of(x: Expr) -> float | None:
    """The number that a literal (or a repeated one) stands for."""
    inner = x.value if isinstance(x, tirx.Broadcast) else x
    return inner.value if isinstance(inner, tirx.FloatImm | tirx.IntImm) else None


def _wrapping(x: Expr, y: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Modular arithmetic: TVM takes 32-bit overflow as impossible, so 32 bits are computed in 64."""
    dtype = x.ty.dtype
    if not dtype.startswith("int32"):
        return combine(x, y)
    wide = dtype.replace("int32", "int64")
    return tirx.Cast(dtype, combine(tirx.Cast(wide, x), tirx.Cast(wide, y)))


@rule("ew.add")
def add(node: Node, x: Expr, y: Expr) -> Expr:
    return _wrapping(x, y, lambda a, b: a + b)


@rule("ew.sub")
def sub(node: Node, x: Expr, y: Expr) -> Expr:
    return minus(x, y) if is_float(x) else _wrapping(x, y, lambda a, b: a - b)


@rule("ew.mul")
def mul(node: Node, x: Expr, y: Expr) -> Expr:
    return _wrapping(x, y, lambda a, b: a * b)


@rule("ew.neg")
def neg(node: Node, x: Expr) -> Expr:
    return -x if is_float(x) else constant(x, 0) - x


@rule("ew.abs")
def abs_(node: Node, x: Expr) -> Expr:
    if is_float(x):
        return intrinsic("llvm.fabs", x)
    return x if x.ty.dtype.startswith("uint") else tirx.Select(x < constant(x, 0), constant(x, 0) - x, x)


@rule("ew.sign")
def sign(node: Node, x: Expr) -> Expr:
    one, nothing = constant(x, 1), constant(x, 0)
    if x.ty.dtype.startswith("uint"):
        return tirx.Select(x > nothing, one, nothing)
    flat = x if is_float(x) else nothing  # keeps NaN and the sign of zero
    return tirx.Select(x > nothing, one, tirx.Select(x < nothing, constant(x, -1), flat))


def _divided(x: Expr, y: Expr, quotient: Callable[[Expr, Expr], Expr], by_minus_one: Callable[[Expr], Expr]) -> Expr:
    """quotient(x, y) for integers, with the divisors that would trap taken apart."""
    nothing, one = constant(y, 0), constant(y, 1)
    if x.ty.dtype.startswith("uint"):
        absent = bind(tirx.EQ(y, nothing))
        return tirx.Select(absent, nothing, quotient(x, bind(tirx.Select(absent, one, y))))
    absent, minus = bind(tirx.EQ(y, nothing)), bind(tirx.EQ(y, constant(y, -1)))
    safe = bind(tirx.Select(tirx.Or(absent, minus), one, y))
    value = bind(quotient(x, safe))
    return tirx.Select(absent, nothing, tirx.Select(minus, by_minus_one(x), value))


def _truncated(x: Expr, y: Expr) -> Expr:
    return tirx.truncdiv(x, y)


def _floored(x: Expr, y: Expr) -> Expr:
    if x.ty.dtype.startswith("uint"):
        return tirx.truncdiv(x, y)
    quotient = bind(tirx.truncdiv(x, y))
    rest = bind(x - quotient * y)
    below = tirx.And(tirx.NE(rest, constant(x, 0)), differ(rest < constant(x, 0), y < constant(x, 0)))
    return tirx.Select(below, quotient - constant(x, 1), quotient)


def _negated(x: Expr) -> Expr:
    return constant(x, 0) - x


def _nothing(x: Expr) -> Expr:
    return constant(x, 0)


@rule("ew.div")
def div(node: Node, x: Expr, y: Expr) -> Expr:
    return x / y if is_float(x) else _divided(x, y, _truncated, _negated)


@rule("ew.floor_div")
def floor_div(node: Node, x: Expr, y: Expr) -> Expr:
    return intrinsic("llvm.floor", bind(x / y)) if is_float(x) else _divided(x, y, _floored, _negated)


@rule("ew.mod")
def mod(node: Node, x: Expr, y: Expr) -> Expr:
    if not is_float(x):
        return _divided(x, y, lambda a, b: a - _floored(a, b) * b, _nothing)
    rest = bind(_float_remainder(x, y))
    nothing = constant(x, 0.0)
    other_side = tirx.And(not_equal(rest, nothing), differ(rest < nothing, y < nothing))
    return tirx.Select(other_side, rest + y, tirx.Select(tirx.EQ(rest, nothing), copysign(rest, y), rest))


@rule("ew.fmod")
def fmod(node: Node, x: Expr, y: Expr) -> Expr:
    if not is_float(x):
        return _divided(x, y, lambda a, b: a - _truncated(a, b) * b, _nothing)
    return _float_remainder(x, y)


def _float_remainder(x: Expr, y: Expr) -> Expr:
    """The remainder with the sign of x; exact in f32 for quotients below 2^29, since f64 holds the product."""
    wide = x.ty.dtype.replace("float32", "float64")
    a, b = bind(intrinsic("llvm.fabs", tirx.Cast(wide, x))), bind(intrinsic("llvm.fabs", tirx.Cast(wide, y)))
    rest = bind(fma(-intrinsic("llvm.trunc", a / b), b, a))
    rest = bind(tirx.Select(rest < constant(rest, 0.0), rest + b, rest))
    rest = bind(tirx.Select(rest >= b, rest - b, rest))
    whole = tirx.And(a < constant(a, math.inf), tirx.EQ(b, constant(b, math.inf)))
    value = tirx.Cast(x.ty.dtype, tirx.Select(whole, a, rest))
    return bind(copysign(value, x))


@rule("ew.max")
def max_(node: Node, x: Expr, y: Expr) -> Expr:
    if is_literal(x):
        x, y = y, x
    if not is_float(x) or is_literal(y):
        return tirx.Select(y > x, y, x)
    return tirx.Select(tirx.isnan(x), x, tirx.Select(x > y, x, y))


@rule("ew.min")
def min_(node: Node, x: Expr, y: Expr) -> Expr:
    if is_literal(x):
        x, y = y, x
    if not is_float(x) or is_literal(y):
        return tirx.Select(y < x, y, x)
    return tirx.Select(tirx.isnan(x), x, tirx.Select(x < y, x, y))


@rule("ew.clip")
def clip(node: Node, x: Expr) -> Expr:
    low, high = node.attrs["low"], node.attrs["high"]
    number = node.result.dtype.numpy.type
    info = np.finfo(number) if is_float(x) else np.iinfo(number)
    if low > info.min:
        limit = constant(x, number(low).item())
        x = bind(tirx.Select(x < limit, limit, x))
    if high < info.max:
        limit = constant(x, number(high).item())
        x = bind(tirx.Select(x > limit, limit, x))
    return x


@rule("ew.pow")
def pow_(node: Node, x: Expr, y: Expr) -> Expr:
    exponent = literal_of(y)
    if exponent == 2:
        return x * x
    if exponent == 3:
        return x * x * x
    if exponent == 1:
        return x
    if exponent == -1:
        return constant(x, 1.0) / x
    return mathlib.power(x, y)


@rule("ew.sqrt")
def sqrt(node: Node, x: Expr) -> Expr:
    return intrinsic("llvm.sqrt", x)


@rule("ew.rsqrt")
def rsqrt(node: Node, x: Expr) -> Expr:
    return constant(x, 1.0) / intrinsic("llvm.sqrt", x)


@rule("ew.reciprocal")
def reciprocal(node: Node, x: Expr) -> Expr:
    return constant(x, 1.0) / x


@rule("ew.floor")
def floor(node: Node, x: Expr) -> Expr:
    return intrinsic("llvm.floor", x)


@rule("ew.ceil")
def ceil(node: Node, x: Expr) -> Expr:
    return intrinsic("llvm.ceil", x)


@rule("ew.round")
def round_(node: Node, x: Expr) -> Expr:
    return intrinsic("llvm.rint", x)


@rule("ew.trunc")
def trunc(node: Node, x: Expr) -> Expr:
    return intrinsic("llvm.trunc", x)
