"""Tensors made from sizes and numbers. Most are formulas, computed only where something needs the tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

from nomul.frontend.torch.lazy import ONE, Affine, Uniform, affine, triangle
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim
from nomul.ir.types import DType


def _uniform(g: Lowering, number: Any) -> Uniform:
    number = g.symbols.number(number)
    dtype = g.dtype()
    kind = bool if dtype is DType.BOOL else int if dtype.is_integer else float
    return Uniform(dtype, g.shape(), kind(number))


@aten("full", lazy=True)
def full(g: Lowering, size: Any, fill_value: Any, **options: Any) -> Operand:
    if isinstance(fill_value, Dim):
        return affine(g.dtype(), g.shape(), (Dim.of(0),) * len(g.shape()), fill_value)
    return _uniform(g, fill_value)


@aten("full_like", "new_full", lazy=True)
def full_like(g: Lowering, x: Operand, *args: Any, **options: Any) -> Operand:
    return full(g, None, args[-1] if args else options["fill_value"])


@aten(
    "zeros", "empty.memory_format", "zeros_like", "empty_like", "new_zeros", "new_empty", "new_empty_strided", lazy=True
)
def zeros(g: Lowering, *args: Any, **options: Any) -> Uniform:
    return _uniform(g, 0)


@aten("empty_strided", "empty_permuted", lazy=True)
def empty(g: Lowering, *args: Any, **options: Any) -> Uniform:
    return _uniform(g, 0)


@aten("ones", "ones_like", "new_ones", lazy=True)
def ones(g: Lowering, *args: Any, **options: Any) -> Uniform:
    return _uniform(g, 1)


@aten("scalar_tensor", lazy=True)
def scalar_tensor(g: Lowering, number: Any, **options: Any) -> Operand:
    return full(g, (), number)


@aten("arange.default", lazy=True)
def arange(g: Lowering, end: Any, **options: Any) -> Operand:
    return _arange(g, 0, end, 1)


@aten("arange.start", lazy=True)
def arange_start(g: Lowering, start: Any, end: Any, **options: Any) -> Operand:
    return _arange(g, start, end, 1)


@aten("arange.start_step", lazy=True)
def arange_step(g: Lowering, start: Any, end: Any, step: Any = 1, **options: Any) -> Operand:
    return _arange(g, start, end, step)


def _arange(g: Lowering, start: Any, end: Any, step: Any) -> Operand:
    dtype, shape = g.dtype(), g.shape()
    if isinstance(start, float) or isinstance(step, float):
        line = g.tensor(affine(DType.I64, shape, (ONE,), Dim.of(0)), dtype)
        return g.b.ew.add(g.b.ew.mul(line, float(step)), float(start))
    counted = affine(DType.I64 if dtype.is_float else dtype, shape, (Dim.of(step),), Dim.of(start))
    if isinstance(counted, Affine) and dtype.is_float:
        return g.tensor(counted, dtype)
    return Uniform(dtype, shape, counted.number) if isinstance(counted, Uniform) else counted


@aten("eye.m", "eye", lazy=True)
def eye(g: Lowering, *args: Any, **options: Any) -> Any:
    """Ones where the row equals the column."""
    rows, columns = g.shape()
    row = g.tensor(affine(DType.I64, (rows, ONE), (ONE, Dim.of(0)), Dim.of(0)))
    column = g.tensor(affine(DType.I64, (ONE, columns), (Dim.of(0), ONE), Dim.of(0)))
    return g.cast(g.b.ew.eq(row, column), g.dtype())


@aten("linspace.default", lazy=True)
def linspace(g: Lowering, start: Any, end: Any, steps: Any, **options: Any) -> Any:
    """Counted from the start in the first half and from the end in the second, as torch does."""
    dtype, (size,) = g.dtype(), g.shape()
    if size.value is None:
        raise g.unsupported(f"linspace of dynamic size {size} is not supported")
    count = int(size)
    step = (float(end) - float(start)) / max(count - 1, 1)
    numbers = [float(start) + step * i if i < count / 2 else float(end) - step * (count - 1 - i) for i in range(count)]
    return g.weights.add(g.name, np.array(numbers).astype(dtype.numpy))


@aten("tril", lazy=True)
def tril(g: Lowering, x: Operand, diagonal: int = 0) -> Any:
    return _triangle(g, x, diagonal, 1)


@aten("triu", lazy=True)
def triu(g: Lowering, x: Operand, diagonal: int = 0) -> Any:
    return _triangle(g, x, diagonal, -1)


def _triangle(g: Lowering, x: Operand, diagonal: int, sign: int) -> Any:
    mask = triangle(g.shape(), diagonal, sign, g.ranges)
    zero = False if g.dtype() is DType.BOOL else 0.0 if g.dtype().is_float else 0
    if isinstance(mask, Uniform):
        return x if mask.number else Uniform(g.dtype(), g.shape(), zero)
    return g.b.ew.where(g.compact(mask), g.tensor(x), g.value(zero, g.dtype()))


@aten("copy", lazy=True)
def copy(g: Lowering, x: Operand, src: Operand, non_blocking: bool = False) -> Any:
    """The source, in the type and shape of the target that it was written to."""
    return g.expand(g.value(src, g.dtype()), g.shape())


@aten("fill", lazy=True)
def fill(g: Lowering, x: Operand, value: Operand) -> Any:
    if isinstance(value, bool | int | float):
        return _uniform(g, value)
    return g.expand(g.value(value, g.dtype()), g.shape())
