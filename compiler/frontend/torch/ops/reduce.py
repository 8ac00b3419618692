"""Sums, means, extremes, searches and scans along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from nomul.frontend.torch.dtypes import dtype_of
from nomul.frontend.torch.lazy import ONE
from nomul.frontend.torch.lowering import Lowering
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value
from nomul.ir.types import DType

Axes = Sequence[int] | int | None


def _axes(g: Lowering, x: Value, dim: Axes) -> tuple[int, ...]:
    """Normalised axes; none given means all."""
    if x.type.rank == 0:
        return ()
    if dim is None or (not isinstance(dim, int) and len(dim) == 0):
        return tuple(range(x.type.rank))
    chosen = (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(g.axis(axis, x.type.rank) for axis in chosen)


def _reduce(g: Lowering, op: str, x: Value, dim: Axes, keepdim: bool) -> Value:
    if x.type.rank == 0:
        return x
    return g.b.op(f"reduce.{op}", x, axes=_axes(g, x, dim), keepdims=keepdim)


@aten("sum")
def sum_(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return _reduce(g, "sum", g.cast(x, g.dtype()), dim, keepdim)


@aten("mean")
def mean(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return _reduce(g, "mean", g.cast(x, g.dtype()), dim, keepdim)


@aten("prod")
def prod(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False, dtype: Any = None) -> Value:
    return _reduce(g, "prod", g.cast(x, g.dtype()), dim, keepdim)


@aten("amax")
def amax(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    if x.dtype is DType.BOOL:
        return _reduce(g, "any", x, dim, keepdim)
    return _reduce(g, "max", x, dim, keepdim)


@aten("amin")
def amin(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    if x.dtype is DType.BOOL:
        return _reduce(g, "all", x, dim, keepdim)
    return _reduce(g, "min", x, dim, keepdim)


@aten("max.default")
def max_all(g: Lowering, x: Value) -> Value:
    return amax(g, x)


@aten("min.default")
def min_all(g: Lowering, x: Value) -> Value:
    return amin(g, x)


@aten("max.dim")
def max_dim(g: Lowering, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amax(g, x, dim, keepdim), _search(g, "argmax", x, dim, keepdim)


@aten("min.dim")
def min_dim(g: Lowering, x: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amin(g, x, dim, keepdim), _search(g, "argmin", x, dim, keepdim)


def _search(g: Lowering, op: str, x: Value, dim: int | None, keepdim: bool) -> Value:
    x = g.cast(x, DType.I32) if x.dtype is DType.BOOL else x
    if x.type.rank == 0:
        return g.b.make.full(shape=(), value=0.0, dtype=DType.I64)
    if dim is not None:
        return g.b.op(f"reduce.{op}", x, axis=g.axis(dim, x.type.rank), keepdims=keepdim)
    index = g.b.op(f"reduce.{op}", g.reshape(x, (x.type.numel,)), axis=0)
    return g.reshape(index, (Dim.of(1),) * x.type.rank) if keepdim else index


@aten("argmax")
def argmax(g: Lowering, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _search(g, "argmax", x, dim, keepdim)


@aten("argmin")
def argmin(g: Lowering, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _search(g, "argmin", x, dim, keepdim)


@aten("any")
def any_(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return _reduce(g, "any", g.cast(x, DType.BOOL), dim, keepdim)


@aten("all")
def all_(g: Lowering, x: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    return _reduce(g, "all", g.cast(x, DType.BOOL), dim, keepdim)


def _variance(g: Lowering, x: Value, dim: Axes, correction: Any, keepdim: bool) -> tuple[Value, Value]:
    """Variance with divisor n - correction, and mean."""
    axes = _axes(g, x, dim)
    average = g.b.reduce.mean(x, axes=axes, keepdims=True)
    centred = g.b.ew.sub(x, average)
    total = g.b.reduce.sum(g.b.ew.mul(centred, centred), axes=axes, keepdims=keepdim)
    count = product([x.shape[axis] for axis in axes])
    correction = 1 if correction is None else correction
    divisor = count - int(correction) if correction == int(correction) else None
    if divisor is None:
        raise g.unsupported(f"a fractional correction ({correction}) is not supported")
    kept = average if keepdim else g.reshape(average, total.shape)
    if divisor.value is not None:
        return g.b.ew.div(total, float(max(int(divisor), 0))), kept
    return g.b.ew.div(total, g.value(divisor, x.dtype)), kept


@aten("var.correction")
def var(g: Lowering, x: Value, dim: Axes = None, correction: Any = 1, keepdim: bool = False) -> Value:
    return _variance(g, x, dim, correction, keepdim)[0]


@aten("std.correction")
def std(g: Lowering, x: Value, dim: Axes = None, correction: Any = 1, keepdim: bool = False) -> Value:
    return g.b.ew.sqrt(_variance(g, x, dim, correction, keepdim)[0])


@aten("var_mean.correction")
def var_mean(
    g: Lowering, x: Value, dim: Axes = None, correction: Any = 1, keepdim: bool = False
) -> tuple[Value, Value]:
    return _variance(g, x, dim, correction, keepdim)


@aten("std_mean.correction")
def std_mean(
    g: Lowering, x: Value, dim: Axes = None, correction: Any = 1, keepdim: bool = False
) -> tuple[Value, Value]:
    variance, average = _variance(g, x, dim, correction, keepdim)
    return g.b.ew.sqrt(variance), average


@aten("logsumexp")
def logsumexp(g: Lowering, x: Value, dim: Axes, keepdim: bool = False) -> Value:
    """The largest element is taken out first, so that exp cannot overflow; an infinite one stays itself."""
    x = g.cast(x, g.dtype())
    axes = _axes(g, x, dim)
    if not axes:
        return x
    top = g.b.reduce.max(x, axes=axes, keepdims=True)
    safe = g.b.ew.where(g.b.ew.is_inf(top), 0.0, top)
    total = g.b.reduce.sum(g.b.ew.exp(g.b.ew.sub(x, safe)), axes=axes, keepdims=True)
    result = g.b.ew.add(g.b.ew.log(total), safe)
    return result if keepdim else g.reshape(result, g.shape())


@aten("cumsum")
def cumsum(g: Lowering, x: Value, dim: int, dtype: torch.dtype | None = None) -> Value:
    x = g.cast(x, g.dtype() if dtype is None else dtype_of(dtype))
    return x if x.type.rank == 0 else g.b.reduce.cumsum(x, axis=g.axis(dim, x.type.rank))


@aten("linalg_vector_norm")
def vector_norm(
    g: Lowering, x: Value, ord: Any = 2, dim: Axes = None, keepdim: bool = False, dtype: Any = None
) -> Value:
    x = g.cast(x, g.dtype())
    return _norm(g, x, ord, dim, keepdim)


@aten("dist")
def dist(g: Lowering, x: Value, y: Value, p: Any = 2) -> Value:
    return _norm(g, g.b.ew.sub(x, y), p, None, False)


@aten("_cdist_forward")
def cdist(g: Lowering, x: Value, y: Value, p: float, compute_mode: int | None) -> Value:
    """Distances between all rows of x and all rows of y."""
    rows = g.reshape(x, (*x.shape[:-1], ONE, x.shape[-1]))
    columns = g.reshape(y, (*y.shape[:-2], ONE, *y.shape[-2:]))
    return _norm(g, g.b.ew.sub(rows, columns), p, -1, False)


def _norm(g: Lowering, x: Value, ord: Any, dim: Axes, keepdim: bool) -> Value:
    """The norm over axes; of half precision in f32, where squares do not overflow."""
    if x.dtype in (DType.F16, DType.BF16):
        return g.cast(_norm(g, g.cast(x, DType.F32), ord, dim, keepdim), x.dtype)
    size = g.b.ew.abs(x)
    if ord in (float("inf"), float("-inf")):
        return _reduce(g, "max" if ord > 0 else "min", size, dim, keepdim)
    if ord == 0:
        return _reduce(g, "sum", g.cast(g.b.ew.ne(x, 0.0), x.dtype), dim, keepdim)
    if ord == 1:
        return _reduce(g, "sum", size, dim, keepdim)
    if ord == 2:
        return g.b.ew.sqrt(_reduce(g, "sum", g.b.ew.mul(x, x), dim, keepdim))
    total = _reduce(g, "sum", g.b.ew.pow(size, float(ord)), dim, keepdim)
    return g.b.ew.pow(total, 1.0 / float(ord))
