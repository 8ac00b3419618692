"""Element-wise arithmetic. Operands broadcast as in numpy and share one dtype."""

from __future__ import annotations

import numpy as np

from nomul.ir.op import Kind, op

EW = Kind.ELEMENTWISE


@op("ew.add", EW, commutative=True)
def add(x: "n[*]", y: "n[*]") -> "n[*]":
    """x + y."""
    return x + y


@op("ew.sub", EW)
def sub(x: "n[*]", y: "n[*]") -> "n[*]":
    """x - y."""
    return x - y


@op("ew.mul", EW, commutative=True)
def mul(x: "n[*]", y: "n[*]") -> "n[*]":
    """x * y."""
    return x * y


@op("ew.div", EW)
def div(x: "n[*]", y: "n[*]") -> "n[*]":
    """x / y; integers round toward zero, and x / 0 is 0 for them."""
    if np.issubdtype(x.dtype, np.integer):
        safe = np.where(y == 0, 1, y).astype(x.dtype)
        toward_zero = x // safe + ((x % safe != 0) & ((x < 0) != (safe < 0)))
        return np.where(y == 0, 0, toward_zero).astype(x.dtype)
    return x / y


@op("ew.floor_div", EW)
def floor_div(x: "n[*]", y: "n[*]") -> "n[*]":
    """floor(x / y); x / 0 is 0 for integers."""
    if np.issubdtype(x.dtype, np.integer):
        return np.where(y == 0, 0, x // np.where(y == 0, 1, y)).astype(x.dtype)
    return np.floor(x / y)


@op("ew.mod", EW)
def mod(x: "n[*]", y: "n[*]") -> "n[*]":
    """x - floor(x / y) * y: the result has the sign of y; 0 for an integer y of 0."""
    if np.issubdtype(x.dtype, np.integer):
        return np.where(y == 0, 0, np.mod(x, np.where(y == 0, 1, y))).astype(x.dtype)
    return np.mod(x, y)


@op("ew.fmod", EW)
def fmod(x: "n[*]", y: "n[*]") -> "n[*]":
    """The remainder with the sign of x; 0 for an integer y of 0."""
    if np.issubdtype(x.dtype, np.integer):
        return np.where(y == 0, 0, np.fmod(x, np.where(y == 0, 1, y))).astype(x.dtype)
    return np.fmod(x, y)


@op("ew.pow", EW)
def pow(x: "f[*]", y: "f[*]") -> "f[*]":
    """x to the power y."""
    return np.power(x, y)


@op("ew.max", EW, commutative=True)
def max(x: "n[*]", y: "n[*]") -> "n[*]":
    """The larger of the two; a NaN wins."""
    return np.maximum(x, y)


@op("ew.min", EW, commutative=True)
def min(x: "n[*]", y: "n[*]") -> "n[*]":
    """The smaller of the two; a NaN wins."""
    return np.minimum(x, y)


@op("ew.clip", EW)
def clip(x: "n[*]", *, low: float = -np.inf, high: float = np.inf) -> "n[*]":
    """x limited to [low, high]."""
    if np.issubdtype(x.dtype, np.integer):
        limits = np.iinfo(x.dtype)
        low, high = (int(sorted((limits.min, bound, limits.max))[1]) for bound in (low, high))
    return np.minimum(np.maximum(x, x.dtype.type(low)), x.dtype.type(high))


@op("ew.neg", EW)
def neg(x: "n[*]") -> "n[*]":
    """-x."""
    return -x


@op("ew.abs", EW)
def abs(x: "n[*]") -> "n[*]":
    """|x|."""
    return np.abs(x)


@op("ew.sign", EW)
def sign(x: "n[*]") -> "n[*]":
    """-1, 0 or 1."""
    return np.sign(x)


@op("ew.sqrt", EW)
def sqrt(x: "f[*]") -> "f[*]":
    """Square root; NaN below zero."""
    return np.sqrt(x)


@op("ew.rsqrt", EW)
def rsqrt(x: "f[*]") -> "f[*]":
    """1 / sqrt(x)."""
    return (1 / np.sqrt(x)).astype(x.dtype)


@op("ew.reciprocal", EW)
def reciprocal(x: "f[*]") -> "f[*]":
    """1 / x."""
    return (1 / x).astype(x.dtype)


@op("ew.floor", EW)
def floor(x: "f[*]") -> "f[*]":
    """The largest integer not above x."""
    return np.floor(x)


@op("ew.ceil", EW)
def ceil(x: "f[*]") -> "f[*]":
    """The smallest integer not below x."""
    return np.ceil(x)


@op("ew.round", EW)
def round(x: "f[*]") -> "f[*]":
    """The nearest integer, ties to even."""
    return np.rint(x)


@op("ew.trunc", EW)
def trunc(x: "f[*]") -> "f[*]":
    """The integer part."""
    return np.trunc(x)
