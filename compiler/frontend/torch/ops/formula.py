"""What ops do to values known by formula (see `lazy.py`): arithmetic, comparison, logic and conversion."""

from __future__ import annotations

from typing import Any

import torch

from nomul.frontend.torch.dtypes import common_dtype
from nomul.frontend.torch.lazy import (
    ZERO,
    Affine,
    Choice,
    Lazy,
    Mask,
    Uniform,
    affine,
    as_affine,
    at_least_zero,
    choose,
    combine,
    complement,
    triangle,
)
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import rule
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType


def _sum(g: Lowering, x: Operand, y: Operand, factor: int) -> Lazy | None:
    """x + factor * y of two formulas of integers."""
    left, right = as_affine(x), as_affine(y)
    if left is None or right is None or not g.dtype().is_integer:
        return None
    return combine(left, right, g.dtype(), g.shape(), factor)


@rule("add")
def add(g: Lowering, x: Operand, y: Operand, alpha: Any = 1) -> Lazy | None:
    return _sum(g, x, y, alpha) if isinstance(alpha, int) else None


@rule("sub")
def sub(g: Lowering, x: Operand, y: Operand, alpha: Any = 1) -> Lazy | None:
    return _sum(g, x, y, -alpha) if isinstance(alpha, int) else None


@rule("rsub")
def rsub(g: Lowering, x: Operand, y: Operand, alpha: Any = 1) -> Lazy | None:
    return _sum(g, y, x, -1) if alpha == 1 else None


@rule("neg")
def neg(g: Lowering, x: Operand) -> Lazy | None:
    return _times(g, x, -1)


@rule("mul")
def mul(g: Lowering, x: Operand, y: Operand) -> Lazy | None:
    """By a known number."""
    for formula, number in ((x, y), (y, x)):
        number = number.number if isinstance(number, Uniform) else number
        if isinstance(number, int) and not isinstance(number, bool):
            return _times(g, formula, number)
        if number == 1 and isinstance(formula, Uniform):
            return _as_type(g, formula, g.dtype())
    return None


def _times(g: Lowering, x: Operand, number: int) -> Lazy | None:
    formula = as_affine(x)
    if formula is None or not g.dtype().is_integer:
        return None
    steps = [ZERO] * (len(g.shape()) - len(formula.shape)) + [step * number for step in formula.steps]
    return affine(g.dtype(), g.shape(), steps, formula.offset * number)


def _compare(op: str) -> None:
    def compare(g: Lowering, x: Operand, y: Operand) -> Lazy | None:
        if isinstance(x, Choice) and isinstance(y, bool | int | float):
            return _leaves(g, x, op, y)
        left, right = as_affine(x), as_affine(y)
        if left is None or right is None:
            return None
        difference = combine(left, right, DType.I64, g.shape(), -1)  # x - y
        if op in ("eq", "ne"):
            return _equality(g, difference, op == "eq")
        sign, extra = {"ge": (1, 0), "gt": (1, -1), "le": (-1, 0), "lt": (-1, -1)}[op]
        formula = as_affine(difference)
        assert formula is not None
        steps = tuple(step * sign for step in formula.steps)
        return at_least_zero(affine(DType.I64, formula.shape, steps, formula.offset * sign + extra), g.ranges)

    rule(op)(compare)


for _op in ("ge", "gt", "le", "lt", "eq", "ne"):
    _compare(_op)


def _equality(g: Lowering, difference: Affine | Uniform, wanted: bool) -> Uniform | None:
    if isinstance(difference, Uniform):
        return Uniform(DType.BOOL, difference.shape, (difference.number == 0) == wanted)
    low, high = difference.bounds(g.ranges)
    return Uniform(DType.BOOL, difference.shape, not wanted) if low > 0 or high < 0 else None


def _leaves(g: Lowering, x: Choice, op: str, y: bool | int | float) -> Lazy | None:
    """An element-wise op on both numbers of a choice."""
    dtype = common_dtype([x, y])
    folded = [g.elementwise(f"ew.{op}", [Uniform(x.dtype, (), number), y], dtype) for number in (x.yes, x.no)]
    yes, no = (uniform.number for uniform in folded if isinstance(uniform, Uniform))  # numbers fold to numbers
    return choose(g.dtype(), x.mask, yes, no, g.ranges)


@rule("bitwise_and", "__and__", "logical_and")
def and_(g: Lowering, x: Operand, y: Operand) -> Operand | None:
    """Conditions are collected; a known one decides or drops out."""
    if g.dtype() is not DType.BOOL:
        return None
    masks = []
    for operand in (x, y):
        if isinstance(operand, Uniform):
            if not operand.number:
                return Uniform(DType.BOOL, g.shape(), False)
            continue
        if isinstance(operand, Value) and operand.dtype is DType.BOOL:
            operand = Mask(operand.shape, (), operand)
        if not isinstance(operand, Mask):
            return None
        masks.append(operand)
    shape = g.shape()
    if not masks:
        return Uniform(DType.BOOL, shape, True)
    tensors = [mask.tensor for mask in masks if mask.tensor is not None]
    tensor = g.b.ew.and_(*map(g.compact, tensors)) if len(tensors) == 2 else tensors[0] if tensors else None
    bounds = [_wide(bound, shape) for mask in masks for bound in mask.bounds]
    return Mask(shape, tuple(bounds), tensor)


def _wide(bound: Affine, shape: Any) -> Affine:
    return Affine(bound.dtype, shape, (ZERO,) * (len(shape) - len(bound.shape)) + bound.steps, bound.offset)


@rule("bitwise_or", "__or__", "logical_or")
def or_(g: Lowering, x: Operand, y: Operand) -> Lazy | None:
    for operand, other in ((x, y), (y, x)):
        if isinstance(operand, Uniform) and operand.dtype is DType.BOOL:
            if operand.number:
                return Uniform(DType.BOOL, g.shape(), True)
            if isinstance(other, Uniform | Mask) and other.shape == g.shape() and other.dtype is DType.BOOL:
                return other
    return None


@rule("bitwise_not", "logical_not")
def not_(g: Lowering, x: Operand) -> Lazy | None:
    return complement(x, g.ranges) if isinstance(x, Mask) else None


@rule("where.self", "where.ScalarSelf", "where.ScalarOther", "where.Scalar")
def where(g: Lowering, condition: Operand, x: Operand, y: Operand) -> Lazy | None:
    if isinstance(condition, Uniform):
        chosen = x if condition.number else y
        return _as_type(g, chosen, g.dtype()) if isinstance(chosen, Uniform) else None
    if not isinstance(condition, Mask) or condition.shape != g.shape():
        return None
    numbers = [side.number if isinstance(side, Uniform) else side for side in (x, y)]
    if not all(isinstance(number, bool | int | float) for number in numbers):
        return None
    yes, no = (_converted(number, g.dtype()) for number in numbers)
    return choose(g.dtype(), condition, yes, no, g.ranges)


@rule("masked_fill")
def masked_fill(g: Lowering, x: Operand, mask: Operand, value: Operand) -> Lazy | None:
    if isinstance(x, Choice) and isinstance(mask, Mask) and _same_condition(x.mask, mask):
        x = Uniform(x.dtype, x.shape, x.no)
    return where(g, mask, value, x)


def _same_condition(first: Mask, second: Mask) -> bool:
    said = [
        [(bound.steps, bound.offset) for bound in mask.bounds] if mask.tensor is None else None
        for mask in (first, second)
    ]
    return first.shape == second.shape and said[0] is not None and said[0] == said[1]


@rule("tril")
def tril(g: Lowering, x: Operand, diagonal: int = 0) -> Lazy | None:
    return _triangle(g, x, diagonal, 1)


@rule("triu")
def triu(g: Lowering, x: Operand, diagonal: int = 0) -> Lazy | None:
    return _triangle(g, x, diagonal, -1)


def _triangle(g: Lowering, x: Operand, diagonal: int, sign: int) -> Lazy | None:
    if not isinstance(x, Uniform):
        return None
    mask = triangle(g.shape(), diagonal, sign, g.ranges)
    zero = _converted(0, g.dtype())
    if isinstance(mask, Uniform):
        return x if mask.number else Uniform(g.dtype(), g.shape(), zero)
    return choose(g.dtype(), mask, x.number, zero, g.ranges)


@rule("_to_copy", "to", "type_as")
def convert(g: Lowering, x: Operand, *unused: Any, **ignored: Any) -> Lazy | None:
    return _as_type(g, x, g.dtype())


def _converted(number: Any, dtype: DType) -> Any:
    if dtype is DType.BOOL:
        return bool(number)
    return float(number) if dtype.is_float else int(number)


def _as_type(g: Lowering, x: Operand, dtype: DType) -> Lazy | None:
    if isinstance(x, Uniform):
        return Uniform(dtype, g.shape(), _converted(x.number, dtype))
    if isinstance(x, Affine) and dtype.is_integer:
        return Affine(dtype, x.shape, x.steps, x.offset)
    if isinstance(x, Mask):
        return choose(dtype, x, _converted(True, dtype), _converted(False, dtype), g.ranges)
    if isinstance(x, Choice):
        return choose(dtype, x.mask, _converted(x.yes, dtype), _converted(x.no, dtype), g.ranges)
    return None


@rule("cumsum")
def cumsum(g: Lowering, x: Operand, dim: int, dtype: torch.dtype | None = None) -> Lazy | None:
    """A uniform integer counts up by itself."""
    if not isinstance(x, Uniform) or not x.shape or not g.dtype().is_integer:
        return None
    axis = g.axis(dim, len(x.shape))
    number = Dim.of(int(x.number))
    steps = [number if place == axis else ZERO for place in range(len(x.shape))]
    return affine(g.dtype(), x.shape, steps, number)
