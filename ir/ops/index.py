"""Reading and writing by index, and tensors made from sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.op import op
from nomul.ir.ops.reduce import check_axis
from nomul.ir.signature import TypeFault, check_number
from nomul.ir.types import DType, Tensor


def _wrapped(indices: np.ndarray, size: int) -> np.ndarray:
    """Negative indices count from the end; the rest is clamped, as the kernels do, so that none reads outside."""
    return np.clip(np.where(indices < 0, indices + size, indices), 0, max(size - 1, 0))


def infer_gather(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, indices = types
    assert x is not None and indices is not None
    axis = attrs["axis"]
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@op("index.gather", infer=infer_gather, verify=check_axis)
def gather(x: "t[...]", indices: "i[_any]", *, axis: int = 0) -> "t[...]":
    """Rows of x along an axis by index; an index below zero counts from the end, one outside is clamped."""
    return np.take(x, _wrapped(indices, x.shape[axis]), axis=axis)


def infer_like_indices(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, indices = types[0], types[1]
    assert x is not None and indices is not None
    if x.rank != indices.rank:
        raise TypeFault(f"indices {indices} must have the rank of {x}", 1)
    return x.with_shape(indices.shape)


@op("index.gather_elements", infer=infer_like_indices, verify=check_axis)
def gather_elements(x: "t[...]", indices: "i[_any]", *, axis: int) -> "t[...]":
    """result[i, j] = x[indices[i, j], j] for axis 0, and so on; indices wrap and clamp as in gather."""
    box = x[tuple(slice(0, size) if i != axis else slice(None) for i, size in enumerate(indices.shape))]
    return np.take_along_axis(box, _wrapped(indices, x.shape[axis]), axis=axis)


def infer_gather_nd(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, indices = types
    assert x is not None and indices is not None
    batch = attrs["batch_dims"]
    depth = indices.shape[-1].value if indices.rank else None
    if depth is None or batch + depth > x.rank:
        raise TypeFault(f"indices {indices} do not fit {x}", 1)
    return x.with_shape((*indices.shape[:-1], *x.shape[batch + depth :]))


@op("index.gather_nd", infer=infer_gather_nd)
def gather_nd(x: "t[...]", indices: "i[_any]", *, batch_dims: int = 0) -> "t[...]":
    """Slices of x named by the last axis of indices (ONNX GatherND)."""
    depth = indices.shape[-1]
    batch_index = np.ogrid[tuple(slice(size) for size in x.shape[:batch_dims])] if batch_dims else []
    extra = indices.ndim - 1 - batch_dims
    lead = [np.reshape(part, part.shape + (1,) * extra) for part in batch_index]
    coordinates = [_wrapped(indices[..., i], x.shape[batch_dims + i]) for i in range(depth)]
    return x[tuple(lead + coordinates)]


def check_scatter_nd(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    x, indices, updates = types
    assert x is not None and indices is not None and updates is not None
    depth = indices.shape[-1].value if indices.rank else None
    if depth is None or depth > x.rank:
        raise TypeFault(f"indices {indices} do not fit {x}", 1)
    if updates.shape != (*indices.shape[:-1], *x.shape[depth:]):
        raise TypeFault(f"updates {updates} do not fit {x} at indices {indices}", 2)


@op("index.scatter_nd", verify=check_scatter_nd)
def scatter_nd(
    x: "t[...]",
    indices: "i[_any]",
    updates: "t[_any]",
    *,
    reduction: Literal["none", "add", "mul", "max", "min"] = "none",
) -> "like x":
    """x with the slices named by indices set to (or, with reduction, combined with) updates (ONNX ScatterND)."""
    result = x.copy()
    coordinates = tuple(_wrapped(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    _combine(result, coordinates, updates, reduction)
    return result


def check_scatter_elements(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    check_axis(types, attrs)
    infer_like_indices(types, attrs)
    if types[1].shape != types[2].shape:
        raise TypeFault(f"updates {types[2]} must have the shape of indices {types[1]}", 2)


@op("index.scatter_elements", verify=check_scatter_elements)
def scatter_elements(
    x: "t[...]",
    indices: "i[_any]",
    updates: "t[_any]",
    *,
    axis: int,
    reduction: Literal["none", "add", "mul", "max", "min"] = "none",
) -> "like x":
    """x with x[indices[i, j], j] set to (or combined with) updates[i, j] for axis 0, etc. (ONNX ScatterElements)."""
    result = x.copy()
    coordinates = list(np.meshgrid(*(np.arange(size) for size in indices.shape), indexing="ij"))
    coordinates[axis] = _wrapped(indices, x.shape[axis])
    _combine(result, tuple(coordinates), updates, reduction)
    return result


def _combine(result: np.ndarray, where: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> None:
    if reduction == "none":
        result[where] = updates
        return
    {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[reduction].at(result, where, updates)


def infer_top_k(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    (x,) = types
    assert x is not None
    axis, k = attrs["axis"], attrs["k"]
    excess = (k - x.shape[axis]).value
    if (excess is not None and excess > 0) or (k.value or 0) < 0:
        raise TypeFault(f"cannot take {k} elements along axis {axis} of {x}", 0)
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return x.with_shape(shape), Tensor(DType.I64, shape)


@op("index.top_k", infer=infer_top_k, verify=check_axis)
def top_k(x: "n[...]", *, k: Dim, axis: int, largest: bool = True) -> "n[...]; i64[...]":
    """The k largest (or smallest) along an axis in order, and their indices; the lower index wins a tie."""
    descending = ~x if np.issubdtype(x.dtype, np.integer) else -x  # ~x: -x overflows at the smallest integer
    order = np.argsort(descending if largest else x, axis=axis, kind="stable")
    indices = np.take(order, np.arange(k), axis=axis)
    return np.take_along_axis(x, indices, axis=axis), indices.astype(np.int64)


def infer_filled(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    check_number(attrs["value"], attrs["dtype"])
    return Tensor(attrs["dtype"], attrs["shape"])


@op("make.full", infer=infer_filled)
def full(*, shape: tuple[Dim, ...], value: float, dtype: DType) -> "$dtype[...]":
    """One value everywhere."""
    return np.full(shape, value, dtype.numpy)


def infer_iota(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    return Tensor(attrs["dtype"], (attrs["size"],))


@op("make.iota", infer=infer_iota)
def iota(*, size: Dim, start: Dim = Dim.of(0), step: int = 1, dtype: DType = DType.I64) -> "$dtype[...]":
    """start, start + step, ... (size numbers)."""
    return (np.arange(size) * step + start).astype(dtype.numpy)


def infer_size(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    return Tensor(DType.I64)


@op("make.size", infer=infer_size)
def size(*, size: Dim) -> "i64[]":
    """A symbolic size as a number."""
    return np.asarray(size, np.int64)
