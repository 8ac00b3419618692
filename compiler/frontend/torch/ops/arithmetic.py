"""Element-wise arithmetic of two or more tensors."""

from __future__ import annotations

from typing import Any

from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.types import DType


def _scaled(g: Lowering, x: Operand, alpha: Any, dtype: DType) -> Operand:
    return x if alpha == 1 else g.elementwise("ew.mul", [x, alpha], dtype)


def _binary(g: Lowering, op: str, x: Operand, y: Operand, logic: str | None = None) -> Any:
    """One op in the result's type; `logic` is what it means for bools."""
    dtype = g.dtype()
    if dtype is DType.BOOL:
        if logic is None:
            raise g.unsupported("bools have no such arithmetic")
        op = logic
    return g.elementwise(op, [x, y], dtype)


@aten("add", lazy=True)
def add(g: Lowering, x: Operand, y: Operand, alpha: Any = 1) -> Any:
    return _binary(g, "ew.add", x, _scaled(g, y, alpha, g.dtype()), "ew.or")


@aten("sub", lazy=True)
def sub(g: Lowering, x: Operand, y: Operand, alpha: Any = 1) -> Any:
    return _binary(g, "ew.sub", x, _scaled(g, y, alpha, g.dtype()))


@aten("rsub", lazy=True)
def rsub(g: Lowering, x: Operand, y: Operand, alpha: Any = 1) -> Any:
    return _binary(g, "ew.sub", y, _scaled(g, x, alpha, g.dtype()))


@aten("mul", lazy=True)
def mul(g: Lowering, x: Operand, y: Operand) -> Any:
    return _binary(g, "ew.mul", x, y, "ew.and")


@aten("div", lazy=True)
def div(g: Lowering, x: Operand, y: Operand, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return floor_divide(g, x, y)
    dtype = g.dtype()
    quotient = g.elementwise("ew.div", [x, y], dtype)
    if rounding_mode == "trunc" and dtype.is_float:
        return g.elementwise("ew.trunc", [quotient], dtype)
    return quotient


@aten("floor_divide", lazy=True)
def floor_divide(g: Lowering, x: Operand, y: Operand) -> Any:
    return _binary(g, "ew.floor_div", x, y)


@aten("remainder", lazy=True)
def remainder(g: Lowering, x: Operand, y: Operand) -> Any:
    return _binary(g, "ew.mod", x, y)


@aten("fmod", lazy=True)
def fmod(g: Lowering, x: Operand, y: Operand) -> Any:
    return _binary(g, "ew.fmod", x, y)


@aten("maximum", "max.other", lazy=True)
def maximum(g: Lowering, x: Operand, y: Operand) -> Any:
    return _binary(g, "ew.max", x, y, "ew.or")


@aten("minimum", "min.other", lazy=True)
def minimum(g: Lowering, x: Operand, y: Operand) -> Any:
    return _binary(g, "ew.min", x, y, "ew.and")


_SPECIAL_POWERS = {0.5: "ew.sqrt", -0.5: "ew.rsqrt", -1.0: "ew.reciprocal"}


@aten("pow", lazy=True)
def pow_(g: Lowering, x: Operand, y: Operand) -> Any:
    dtype = g.dtype()
    if isinstance(y, int | float) and not isinstance(y, bool):
        if y in (2, 3) or (dtype.is_integer and 1 <= y <= 64):
            return _power(g, x, int(y), dtype)
        if y in _SPECIAL_POWERS and dtype.is_float:
            return g.elementwise(_SPECIAL_POWERS[float(y)], [x], dtype)
    if dtype.is_float:
        return g.elementwise("ew.pow", [x, y], dtype)
    wide = g.elementwise("ew.pow", [x, y], DType.F64)
    return g.cast(g.value(wide), dtype)


def _power(g: Lowering, x: Operand, exponent: int, dtype: DType) -> Operand:
    """x multiplied by itself, by repeated squaring."""
    half = x if exponent == 1 else _power(g, x, exponent // 2, dtype)
    if exponent == 1:
        return g.value(x, dtype)
    square = g.elementwise("ew.mul", [half, half], dtype)
    return square if exponent % 2 == 0 else g.elementwise("ew.mul", [square, x], dtype)


@aten("clamp", "clip", lazy=True)
def clamp(g: Lowering, x: Operand, min: Any = None, max: Any = None) -> Any:
    dtype = g.dtype()
    plain = all(bound is None or isinstance(bound, int | float) for bound in (min, max))
    if plain and (min is None or max is None or min <= max):
        limits = {key: float(bound) for key, bound in (("low", min), ("high", max)) if bound is not None}
        return g.elementwise("ew.clip", [x], dtype, **limits)
    result = x if min is None else g.elementwise("ew.max", [x, min], dtype)
    return result if max is None else g.elementwise("ew.min", [result, max], dtype)


@aten("clamp_min", lazy=True)
def clamp_min(g: Lowering, x: Operand, bound: Any) -> Any:
    return clamp(g, x, bound, None)


@aten("clamp_max", lazy=True)
def clamp_max(g: Lowering, x: Operand, bound: Any) -> Any:
    return clamp(g, x, None, bound)


@aten("addcmul", lazy=True)
def addcmul(g: Lowering, x: Operand, y: Operand, z: Operand, value: Any = 1) -> Any:
    dtype = g.dtype()
    return g.elementwise("ew.add", [x, _scaled(g, g.elementwise("ew.mul", [y, z], dtype), value, dtype)], dtype)


@aten("lerp", lazy=True)
def lerp(g: Lowering, start: Operand, end: Operand, weight: Any) -> Any:
    dtype = g.dtype()
    step = g.elementwise("ew.mul", [g.elementwise("ew.sub", [end, start], dtype), weight], dtype)
    return g.elementwise("ew.add", [start, step], dtype)


@aten("fmax", lazy=True)
def fmax(g: Lowering, x: Operand, y: Operand) -> Any:
    return _without_nan(g, "ew.max", x, y)


@aten("fmin", lazy=True)
def fmin(g: Lowering, x: Operand, y: Operand) -> Any:
    return _without_nan(g, "ew.min", x, y)


def _without_nan(g: Lowering, op: str, x: Operand, y: Operand) -> Any:
    """The extreme of two numbers, where one that is not a number counts as absent."""
    dtype = g.dtype()
    if not dtype.is_float:
        return _binary(g, op, x, y, "ew.or" if op == "ew.max" else "ew.and")
    left, right = (g.compact(side, dtype) for side in (x, y))
    filled = g.b.ew.where(g.b.ew.is_nan(left), right, left), g.b.ew.where(g.b.ew.is_nan(right), left, right)
    return g.expand(g.b.op(op, *filled), g.shape())


@aten("hypot", lazy=True)
def hypot(g: Lowering, x: Operand, y: Operand) -> Any:
    dtype = g.dtype()
    squares = [_power(g, side, 2, dtype) for side in (x, y)]
    return g.elementwise("ew.sqrt", [g.elementwise("ew.add", squares, dtype)], dtype)
