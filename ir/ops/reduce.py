"""Reductions, scans and searches over axes. Axes are non-negative; `keepdims` keeps them with size 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.numerics import wide
from nomul.ir.op import op
from nomul.ir.signature import TypeFault
from nomul.ir.types import DType, Tensor


def _reduced(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> tuple[Dim, ...]:
    if any(not 0 <= axis < x.rank for axis in axes) or len(set(axes)) != len(axes):
        raise TypeFault(f"axes {list(axes)} do not fit {x}", 0)
    sizes = [Dim.of(1) if axis in axes else size for axis, size in enumerate(x.shape)]
    return tuple(size for axis, size in enumerate(sizes) if keepdims or axis not in axes)


def infer_reduction(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    return x.with_shape(_reduced(x, attrs["axes"], attrs["keepdims"]))


def infer_search(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    return Tensor(DType.I64, _reduced(x, (attrs["axis"],), attrs["keepdims"]))


def check_axis(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    """A verify hook: attribute `axis` is an axis of the first operand."""
    if types[0] is not None and not 0 <= attrs["axis"] < types[0].rank:
        raise TypeFault(f"axis {attrs['axis']} does not fit {types[0]}", 0)


@op("reduce.sum", infer=infer_reduction)
def sum(x: "n[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "n[...]":
    """Sum over axes; sixteen-bit floats are summed as f32."""
    return wide(x).sum(axis=axes, keepdims=keepdims, dtype=wide(x).dtype).astype(x.dtype)


@op("reduce.mean", infer=infer_reduction)
def mean(x: "f[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "f[...]":
    """Mean over axes; sixteen-bit floats are summed as f32."""
    return wide(x).mean(axis=axes, keepdims=keepdims).astype(x.dtype)


@op("reduce.prod", infer=infer_reduction)
def prod(x: "n[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "n[...]":
    """Product over axes."""
    return x.prod(axis=axes, keepdims=keepdims, dtype=x.dtype)


@op("reduce.max", infer=infer_reduction)
def max(x: "n[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "n[...]":
    """Largest over axes."""
    return x.max(axis=axes, keepdims=keepdims)


@op("reduce.min", infer=infer_reduction)
def min(x: "n[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "n[...]":
    """Smallest over axes."""
    return x.min(axis=axes, keepdims=keepdims)


@op("reduce.any", infer=infer_reduction)
def any_(x: "b[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "b[...]":
    """True where one is true."""
    return x.any(axis=axes, keepdims=keepdims)


@op("reduce.all", infer=infer_reduction)
def all_(x: "b[...]", *, axes: tuple[int, ...], keepdims: bool = False) -> "b[...]":
    """True where all are true."""
    return x.all(axis=axes, keepdims=keepdims)


@op("reduce.argmax", infer=infer_search)
def argmax(x: "n[...]", *, axis: int, keepdims: bool = False) -> "i64[...]":
    """Index of the first largest element along an axis."""
    return np.argmax(x, axis=axis, keepdims=keepdims).astype(np.int64)


@op("reduce.argmin", infer=infer_search)
def argmin(x: "n[...]", *, axis: int, keepdims: bool = False) -> "i64[...]":
    """Index of the first smallest element along an axis."""
    return np.argmin(x, axis=axis, keepdims=keepdims).astype(np.int64)


@op("reduce.cumsum", verify=check_axis)
def cumsum(x: "n[...]", *, axis: int) -> "like x":
    """Running sum along an axis, the element itself included."""
    return np.cumsum(x, axis=axis, dtype=x.dtype)
