"""Small building blocks of TIR expressions, out of sight of TVM's float algebra and free of its pitfalls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nomul.backends import tvm_alone  # noqa: F401  (before tvm)

# isort: split

from tvm import tirx
from tvm.ir import TensorLoad
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

Expr = Any  # a tvm PrimExpr; tvm has no type stubs

_LOCAL = "bound"


def bind(value: Expr) -> Expr:
    """Compute a value once, however often it is used: it goes through a local, which LLVM keeps in a register.

    A TIR binding would do the same, but TVM's analyser copies what is bound into every use, and chains of them explode.
    A vector of bools stays as it is: TVM stores those as bits and reads them as bytes."""
    if _is_simple(value) or not IRBuilder.is_in_scope():
        return value
    local = T.alloc_buffer((1,), value.ty.dtype, scope="local")
    IRBuilder.name(_LOCAL, local)
    T.buffer_store(local, value, [0])
    return local[0]


def _is_simple(value: Expr) -> bool:
    if isinstance(value, TensorLoad):
        return bool(value.source.name.startswith(_LOCAL))
    dtype = value.ty.dtype
    is_bool_vector = dtype.lanes > 1 and dtype.startswith("bool")
    return is_bool_vector or isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm)


def constant(like: Expr, value: float | int | bool) -> Expr:
    """A literal of the type and lanes of `like`."""
    return tirx.const(value, like.ty.dtype)


def fma(x: Expr, y: Expr, z: Expr) -> Expr:
    """x * y + z, fused where the machine can; opaque to TVM's float algebra."""
    return tirx.call_llvm_pure_intrin(x.ty.dtype, "llvm.fmuladd", x, y, z)


def minus(x: Expr, y: Expr) -> Expr:
    """x - y for floats, out of sight of TVM's algebra, which would make (x + y) - y into x."""
    return fma(y, constant(y, -1.0), x)


def intrinsic(name: str, *args: Expr) -> Expr:
    """An LLVM intrinsic whose result has the type of the first operand."""
    return tirx.call_llvm_pure_intrin(args[0].ty.dtype, name, *args)


def copysign(size: Expr, sign: Expr) -> Expr:
    return intrinsic("llvm.copysign", size, sign)


def is_nan(x: Expr) -> Expr:
    return tirx.isnan(x)


def is_infinite(x: Expr) -> Expr:
    return tirx.EQ(intrinsic("llvm.fabs", x), constant(x, math.inf))


def not_equal(x: Expr, y: Expr) -> Expr:
    """x != y; for floats true where one is NaN, which TVM's own comparison is not."""
    return tirx.Not(tirx.EQ(x, y)) if x.ty.dtype.startswith("float") else tirx.NE(x, y)


def differ(x: Expr, y: Expr) -> Expr:
    """Exclusive or of bools: TVM compares those as floats."""
    return tirx.Or(tirx.And(x, tirx.Not(y)), tirx.And(tirx.Not(x), y))


def at_most(x: Expr, limit: float) -> Expr:
    """min(x, limit); a NaN stays."""
    x = bind(x)
    return tirx.Select(x > constant(x, limit), constant(x, limit), x)


def at_least(x: Expr, limit: float) -> Expr:
    """max(x, limit); a NaN stays."""
    x = bind(x)
    return tirx.Select(x < constant(x, limit), constant(x, limit), x)


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Horner's rule; the coefficient of x^0 comes first."""
    value = constant(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = fma(value, x, constant(x, coefficient))
    return value
