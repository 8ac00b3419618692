"""Element-wise functions of one tensor that have an IR op, or a short formula of such."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.graph import Value
from nomul.ir.types import DType

_SAME = {
    "abs": "abs",
    "ceil": "ceil",
    "cos": "cos",
    "erf": "erf",
    "exp": "exp",
    "floor": "floor",
    "log": "log",
    "log1p": "log1p",
    "mish": "mish",
    "neg": "neg",
    "reciprocal": "reciprocal",
    "relu": "relu",
    "rsqrt": "rsqrt",
    "sgn": "sign",
    "sigmoid": "sigmoid",
    "sign": "sign",
    "silu": "silu",
    "sin": "sin",
    "sqrt": "sqrt",
    "tanh": "tanh",
    "trunc": "trunc",
}
_ON_INTEGERS = ("abs", "neg", "relu", "sgn", "sign")
_ROUNDING = ("ceil", "floor", "trunc")


def _declare(name: str, op: str) -> None:
    def lower(g: Lowering, x: Operand) -> Any:
        dtype = g.dtype()
        if not dtype.is_float and name in _ROUNDING:
            return x
        if dtype is DType.BOOL:
            if name in ("sgn", "sign", "abs", "relu"):
                return x
            raise g.unsupported("it has no meaning for bools")
        if dtype is DType.U8 and name in ("abs", "relu"):
            return x
        return g.elementwise(f"ew.{op}", [x], dtype)

    aten(name, lazy=True)(lower)


for _name, _op in _SAME.items():
    _declare(_name, _op)


@aten("round", lazy=True)
def round_(g: Lowering, x: Operand, decimals: int = 0) -> Any:
    dtype = g.dtype()
    if not dtype.is_float:
        return x
    if decimals == 0:
        return g.elementwise("ew.round", [x], dtype)
    scale = 10.0 ** abs(decimals)
    to, back = ("ew.mul", "ew.div") if decimals > 0 else ("ew.div", "ew.mul")
    rounded = g.elementwise("ew.round", [g.elementwise(to, [x, scale], dtype)], dtype)
    return g.elementwise(back, [rounded, scale], dtype)


Formula = Callable[[Lowering, Value], Value]


def _formula(*names: str) -> Callable[[Formula], Formula]:
    """Declare ops as formulas of a float tensor, of the result's type."""

    def declare(function: Formula) -> Formula:
        def lower(g: Lowering, x: Value) -> Value:
            return function(g, g.cast(x, g.dtype()))

        aten(*names)(lower)
        return function

    return declare


@_formula("log2")
def _log2(g: Lowering, x: Value) -> Value:
    return g.b.ew.mul(g.b.ew.log(x), 1 / math.log(2))


@_formula("log10")
def _log10(g: Lowering, x: Value) -> Value:
    return g.b.ew.mul(g.b.ew.log(x), 1 / math.log(10))


@_formula("exp2", "special_exp2")
def _exp2(g: Lowering, x: Value) -> Value:
    return g.b.ew.exp(g.b.ew.mul(x, math.log(2)))


@_formula("expm1", "special_expm1")
def _expm1(g: Lowering, x: Value) -> Value:
    """tanh(x / 2) * (e^x + 1) keeps its digits near zero; far from it, e^x - 1 does not overflow to NaN."""
    e = g.b.ew.exp(x)
    near = g.b.ew.mul(g.b.ew.tanh(g.b.ew.mul(x, 0.5)), g.b.ew.add(e, 1.0))
    return g.b.ew.where(g.b.ew.lt(g.b.ew.abs(x), 1.0), near, g.b.ew.sub(e, 1.0))


@_formula("sinh")
def _sinh(g: Lowering, x: Value) -> Value:
    """(m + m / (m + 1)) / 2 with m = e^|x| - 1, and the sign of x."""
    m = _expm1(g, g.b.ew.abs(x))
    tail = g.b.ew.div(m, g.b.ew.add(m, 1.0))
    safe = g.b.ew.where(g.b.ew.is_inf(m), 1.0, tail)
    return g.b.ew.mul(g.b.ew.mul(g.b.ew.add(m, safe), 0.5), g.b.ew.sign(x))


@_formula("cosh")
def _cosh(g: Lowering, x: Value) -> Value:
    e = g.b.ew.exp(g.b.ew.abs(x))
    return g.b.ew.mul(g.b.ew.add(e, g.b.ew.reciprocal(e)), 0.5)


@_formula("tan")
def _tan(g: Lowering, x: Value) -> Value:
    return g.b.ew.div(g.b.ew.sin(x), g.b.ew.cos(x))


@_formula("erfc", "special_erfc")
def _erfc(g: Lowering, x: Value) -> Value:
    return g.b.ew.add(g.b.ew.neg(g.b.ew.erf(x)), 1.0)


@_formula("frac")
def _frac(g: Lowering, x: Value) -> Value:
    return g.b.ew.sub(x, g.b.ew.trunc(x))


@_formula("asinh")
def _asinh(g: Lowering, x: Value) -> Value:
    """sign(x) * log1p(s + s^2 / (1 + sqrt(1 + s^2))) with s = |x|, which keeps its digits near zero."""
    size = g.b.ew.abs(x)
    square = g.b.ew.mul(size, size)
    root = g.b.ew.sqrt(g.b.ew.add(square, 1.0))
    grown = g.b.ew.add(size, g.b.ew.div(square, g.b.ew.add(root, 1.0)))
    return g.b.ew.mul(g.b.ew.log1p(grown), g.b.ew.sign(x))


@_formula("acosh")
def _acosh(g: Lowering, x: Value) -> Value:
    root = g.b.ew.mul(g.b.ew.sqrt(g.b.ew.sub(x, 1.0)), g.b.ew.sqrt(g.b.ew.add(x, 1.0)))
    return g.b.ew.log(g.b.ew.add(x, root))


@_formula("atanh")
def _atanh(g: Lowering, x: Value) -> Value:
    difference = g.b.ew.sub(g.b.ew.log1p(x), g.b.ew.log1p(g.b.ew.neg(x)))
    return g.b.ew.mul(difference, 0.5)
