"""Element-wise comparison, logic, selection and conversion."""

from __future__ import annotations

import numpy as np

from nomul.ir.op import Kind, op
from nomul.ir.types import DType

EW = Kind.ELEMENTWISE


@op("ew.eq", EW, commutative=True)
def eq(x: "t[*]", y: "t[*]") -> "b[*]":
    """x == y."""
    return x == y


@op("ew.ne", EW, commutative=True)
def ne(x: "t[*]", y: "t[*]") -> "b[*]":
    """x != y."""
    return x != y


@op("ew.lt", EW)
def lt(x: "n[*]", y: "n[*]") -> "b[*]":
    """x < y."""
    return x < y


@op("ew.le", EW)
def le(x: "n[*]", y: "n[*]") -> "b[*]":
    """x <= y."""
    return x <= y


@op("ew.gt", EW)
def gt(x: "n[*]", y: "n[*]") -> "b[*]":
    """x > y."""
    return x > y


@op("ew.ge", EW)
def ge(x: "n[*]", y: "n[*]") -> "b[*]":
    """x >= y."""
    return x >= y


@op("ew.and", EW, commutative=True)
def and_(x: "b[*]", y: "b[*]") -> "b[*]":
    """Both."""
    return x & y


@op("ew.or", EW, commutative=True)
def or_(x: "b[*]", y: "b[*]") -> "b[*]":
    """Either."""
    return x | y


@op("ew.xor", EW, commutative=True)
def xor(x: "b[*]", y: "b[*]") -> "b[*]":
    """Exactly one."""
    return x ^ y


@op("ew.not", EW)
def not_(x: "b[*]") -> "b[*]":
    """The opposite."""
    return ~x


@op("ew.is_nan", EW)
def is_nan(x: "f[*]") -> "b[*]":
    """True where x is not a number."""
    return np.isnan(x)


@op("ew.is_inf", EW)
def is_inf(x: "f[*]") -> "b[*]":
    """True where x is infinite, of either sign."""
    return np.isinf(x)


@op("ew.where", EW)
def where(condition: "b[*]", x: "t[*]", y: "t[*]") -> "t[*]":
    """x where the condition holds, else y."""
    return np.where(condition, x, y)


@op("ew.cast", EW)
def cast(x: "t[*]", *, dtype: DType) -> "$dtype[*]":
    """Convert. Float to integer truncates; to bool: not equal to zero."""
    with np.errstate(invalid="ignore"):
        return x.astype(dtype.numpy)
