"""Eight-bit activations as expressions: `ir/quantise.py` operation by operation, so that integers agree bit for bit.

The largest magnitude of a row is found among bit patterns: as integers they are ordered as the floats are, with
infinity and NaN above all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from tvm import tirx

from nomul.backends.expressions import bind
from nomul.backends.tir.vectors import spread
from nomul.ir.quantise import LEAST, LEVELS

Expr = Any
INFINITY = 0x7F800000
_ROUNDER = np.float32(1.5 * 2**23)  # x + _ROUNDER has the integer nearest to x, halves to even, in its lowest bits


class RowScale(NamedTuple):
    """finite: whether all of a row is.  inverse: what elements are multiplied by.  scale: of the integers.
    levels: the largest integer."""

    finite: Expr
    inverse: Expr
    scale: Expr
    levels: int


def magnitude(x: Expr) -> Expr:
    """int32 bits of |x|, a number or a vector."""
    lanes = int(x.ty.dtype.lanes)
    bits = tirx.reinterpret("int32" if lanes == 1 else f"int32x{lanes}", x)
    return bind(tirx.bitwise_and(bits, spread(_integer(0x7FFFFFFF), lanes)))


def row_scale(largest: Expr, attrs: Mapping[str, Any]) -> RowScale:
    """For the largest `magnitude` of a row, and the attributes of nn.quantise."""
    finite = bind(largest < _integer(INFINITY))
    if attrs["act"] == "i8-static":
        scale = _real(attrs["act_scale"])
        inverse = _real(np.float32(1) / np.float32(attrs["act_scale"]))
    else:
        most = bind(tirx.reinterpret("float32", largest))
        zero = bind(most < _real(float(LEAST)))
        scale = tirx.Select(zero, _real(0.0), bind(most / _real(attrs["levels"])))
        inverse = tirx.Select(zero, _real(0.0), bind(_real(attrs["levels"]) / most))
    nothing = tirx.reinterpret("float32", _integer(INFINITY | 1 << 22))
    return RowScale(finite, bind(inverse), bind(tirx.Select(finite, scale, nothing)), attrs["levels"])


def step(x: Expr, row: RowScale) -> Expr:
    """int8: the integer of an element of a row."""
    ratio = bind(tirx.Select(row.finite, x * row.inverse, _real(0.0)))
    limited = bind(tirx.max(tirx.min(ratio, _real(row.levels)), _real(-row.levels)))
    pattern = tirx.reinterpret("int32", bind(limited + _real(_ROUNDER)))
    return bind(tirx.Cast("int8", pattern - _integer(int(_ROUNDER.view(np.int32)))))


def _real(value: float | np.floating) -> Expr:
    return tirx.FloatImm("float32", float(value))


def _integer(value: int) -> Expr:
    return tirx.IntImm("int32", value)


def sum_type(largest: int, count: int) -> str:
    """In what integers sums of `count` products are exact, for weights of at most this magnitude."""
    return "int32" if LEVELS * largest * count < 2**31 else "int64"
