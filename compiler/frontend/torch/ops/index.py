"""Reading and writing by index, sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.frontend.common import DATA_DEPENDENT
from nomul.frontend.torch.errors import Unsupported
from nomul.frontend.torch.lazy import ONE, ZERO, Affine, Lazy, affine
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.ops.logic import select as where
from nomul.frontend.torch.ops.view import resolve_start
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.signature import broadcast
from nomul.ir.types import DType


@aten("embedding")
def embedding(g: Lowering, table: Value, indices: Value, *unused: Any, **ignored: Any) -> Value:
    return g.b.index.gather(table, indices, axis=0, name=g.name)


@aten("index_select")
def index_select(g: Lowering, x: Value, dim: int, index: Value) -> Value:
    if x.type.rank == 0:
        return x
    index = g.reshape(index, (ONE,)) if index.type.rank == 0 else index
    return g.b.index.gather(x, index, axis=g.axis(dim, x.type.rank))


@aten("gather")
def gather(g: Lowering, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    if x.type.rank == 0 or index.type.rank == 0:
        picked = g.b.index.gather(g.reshape(x, (x.type.numel,)), g.reshape(index, (index.type.numel,)), axis=0)
        return g.reshape(picked, g.shape())
    return g.b.index.gather_elements(x, index, axis=g.axis(dim, x.type.rank))


def _indices(g: Lowering, indices: Sequence[Operand | None]) -> list[Value | None]:
    """The index tensors; a mask of bools has as many results as it has true elements, which no shape can say."""
    values = [None if index is None else g.tensor(index) for index in indices]
    if any(value is not None and value.dtype in (DType.BOOL, DType.U8) for value in values):
        raise Unsupported(
            DATA_DEPENDENT, "indexing by a mask gives a result whose size depends on data", "use torch.where instead"
        )
    return values


def _to_front(g: Lowering, indices: Sequence[Value | None], rank: int) -> tuple[list[int], list[int], bool]:
    """(indexed axes, the others, whether the indexed ones are neighbours)."""
    chosen = [axis for axis, index in enumerate(indices) if index is not None]
    rest = [axis for axis in range(rank) if axis not in chosen]
    return chosen, rest, chosen == list(range(chosen[0], chosen[-1] + 1))


def _coordinates(g: Lowering, indices: Sequence[Value]) -> Value:
    """Index tensors as one, [..., number of them]."""
    shape: tuple[Dim, ...] = ()
    for index in indices:
        shape = broadcast(shape, index.shape)
    columns = [g.reshape(g.expand(g.cast(index, DType.I64), shape), (*shape, ONE)) for index in indices]
    return columns[0] if len(columns) == 1 else g.b.view.concat(*columns, axis=len(shape))


@aten("index.Tensor", "_unsafe_index.Tensor")
def index(g: Lowering, x: Value, indices: Sequence[Value | None]) -> Value:
    """torch's advanced indexing: results of neighbouring indices stay in place, of others go first."""
    values = _indices(g, indices)
    chosen, rest, together = _to_front(g, values, x.type.rank)
    picked = [value for value in values if value is not None]
    if len(picked) == 1:
        return g.b.index.gather(x, picked[0], axis=chosen[0])
    coordinates = _coordinates(g, picked)
    result = g.b.index.gather_nd(g.transpose(x, chosen + rest), coordinates)
    if not together or chosen[0] == 0:
        return result
    depth, before = coordinates.type.rank - 1, chosen[0]
    perm = [*range(depth, depth + before), *range(depth), *range(depth + before, result.type.rank)]
    return g.transpose(result, perm)


@aten("index_put", "_unsafe_index_put", lazy=True)
def index_put(
    g: Lowering, x: Operand, indices: Sequence[Operand | None], values: Operand, accumulate: bool = False
) -> Value:
    (first, *others) = [index for index in indices if index is not None]
    one_mask = not others and getattr(first, "dtype", None) is DType.BOOL and indices[0] is first
    if one_mask and not accumulate and len(getattr(values, "shape", ())) == 0:
        return _put_masked(g, g.tensor(x), first, values)
    given = _indices(g, indices)
    base = g.tensor(x)
    chosen, rest, together = _to_front(g, given, base.type.rank)
    coordinates = _coordinates(g, [value for value in given if value is not None])
    moved = g.transpose(base, chosen + rest)
    shape = (*coordinates.shape[:-1], *moved.shape[len(chosen) :])
    updates = g.tensor(values, base.dtype)
    if together and chosen[0] > 0:
        updates = _index_axes_first(g, updates, coordinates.type.rank - 1, chosen[0], len(shape))
    updates = g.expand(updates, shape)
    result = g.b.index.scatter_nd(moved, coordinates, updates, reduction="add" if accumulate else "none")
    back = np.argsort(chosen + rest)
    return g.transpose(result, [int(axis) for axis in back])


def _index_axes_first(g: Lowering, updates: Value, depth: int, before: int, rank: int) -> Value:
    """Updates [leading, index axes, rest] as [index axes, leading, rest]."""
    updates = g.reshape(updates, (ONE,) * (rank - updates.type.rank) + updates.shape)
    return g.transpose(updates, [*range(before, before + depth), *range(before), *range(before + depth, rank)])


def _put_masked(g: Lowering, x: Value, mask: Operand, value: Operand) -> Value:
    lead = g.tensor(mask)
    condition = g.reshape(lead, (*lead.shape, *[ONE] * (x.type.rank - lead.type.rank)))
    return where(g, condition, value, x, x.dtype)


_REDUCTIONS = {"sum": "add", "add": "add", "prod": "mul", "multiply": "mul", "amax": "max", "amin": "min"}


@aten("scatter.src", "scatter.value", "scatter.reduce", "scatter.value_reduce")
def scatter(g: Lowering, x: Value, dim: int, index: Value, src: Any, reduce: str = "none") -> Value:
    updates = src if isinstance(src, Value) else g.tensor(src, x.dtype)
    return _scatter(g, x, dim, index, updates, _REDUCTIONS.get(reduce, reduce))


@aten("scatter_add")
def scatter_add(g: Lowering, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(g, x, dim, index, src, "add")


@aten("scatter_reduce.two")
def scatter_reduce(
    g: Lowering, x: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool = True
) -> Value:
    if reduce == "mean" or not include_self:
        raise g.unsupported(f"scatter_reduce by {reduce}{'' if include_self else ' without self'} is not supported")
    return _scatter(g, x, dim, index, src, _REDUCTIONS[reduce])


def _scatter(g: Lowering, x: Value, dim: int, index: Value, updates: Value, reduction: str) -> Value:
    shape = x.shape
    if x.type.rank == 0:
        x = g.reshape(x, (ONE,))
    if index.type.rank == 0:
        index, updates = g.reshape(index, (ONE,)), g.reshape(updates, (ONE,)) if updates.type.rank == 0 else updates
    if updates.type.rank == 0 or updates.shape != index.shape:
        updates = _box(g, updates, index.shape)
    y = g.b.index.scatter_elements(
        x, index, g.cast(updates, x.dtype), axis=g.axis(dim, x.type.rank), reduction=reduction
    )
    return g.reshape(y, shape)


def _box(g: Lowering, updates: Value, shape: tuple[Dim, ...]) -> Value:
    """The leading part of each axis of the updates; a number is repeated."""
    if updates.type.rank == 0:
        return g.expand(updates, shape)
    for axis, size in enumerate(shape):
        updates = g.slice(updates, axis, ZERO, size)
    return updates


@aten("slice_scatter")
def slice_scatter(
    g: Lowering, x: Value, src: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    axis = g.axis(dim, x.type.rank)
    size, extent = x.shape[axis], src.shape[axis]
    begin = resolve_start(g, start, size)
    if step != 1:
        line = affine(DType.I64, (extent,), (Dim.of(step),), begin)
        return _write(g, x, axis, line, src)
    if extent == ZERO:
        return x
    parts = [g.slice(x, axis, ZERO, begin), g.cast(src, x.dtype), g.slice(x, axis, begin + extent, size)]
    kept = [part for part in parts if part.shape[axis] != ZERO]
    return kept[0] if len(kept) == 1 else g.b.view.concat(*kept, axis=axis)


@aten("select_scatter")
def select_scatter(g: Lowering, x: Value, src: Value, dim: int, index: Any) -> Value:
    axis = g.axis(dim, x.type.rank)
    begin = resolve_start(g, index, x.shape[axis])
    return slice_scatter(g, x, g.reshape(src, (*x.shape[:axis], ONE, *x.shape[axis + 1 :])), axis, begin)


def _write(g: Lowering, x: Value, axis: int, places: Lazy | Value, src: Value, reduction: str = "none") -> Value:
    """x with whole slices along an axis replaced."""
    if x.type.rank == 0:
        one = _write(g, g.reshape(x, (ONE,)), 0, places, g.reshape(src, (ONE,)), reduction)
        return g.reshape(one, ())
    perm = [axis, *(other for other in range(x.type.rank) if other != axis)]
    line = g.tensor(places)
    coordinates = g.reshape(line, (*line.shape, ONE))
    updates = g.transpose(g.cast(src, x.dtype), perm)
    moved = g.b.index.scatter_nd(g.transpose(x, perm), coordinates, updates, reduction=reduction)
    return g.transpose(moved, [int(place) for place in np.argsort(perm)])


@aten("index_copy")
def index_copy(g: Lowering, x: Value, dim: int, index: Value, src: Value) -> Value:
    return _write(g, x, g.axis(dim, x.type.rank), g.reshape(index, (index.type.numel,)), src)


@aten("index_add")
def index_add(g: Lowering, x: Value, dim: int, index: Value, src: Value, alpha: Any = 1) -> Value:
    updates = src if alpha == 1 else g.value(g.elementwise("ew.mul", [src, alpha], x.dtype))
    return _write(g, x, g.axis(dim, x.type.rank), g.reshape(index, (index.type.numel,)), updates, "add")


@aten("topk")
def topk(
    g: Lowering, x: Value, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, Value]:
    if x.type.rank == 0:
        return x, g.b.make.full(shape=(), value=0.0, dtype=DType.I64)
    node = g.b.node("index.top_k", x, k=g.symbols.dim(k), axis=g.axis(dim, x.type.rank), largest=largest)
    return node.results[0], node.results[1]


@aten("sort.default", "sort.stable")
def sort(g: Lowering, x: Value, *args: Any, **options: Any) -> tuple[Value, Value]:
    """sort(x, dim, descending), or with `stable` in front of dim; equal elements keep their order here always."""
    if "stable" in g.node.target._overloadname and args and (args[0] is None or isinstance(args[0], bool)):
        args = args[1:]
    dim = args[0] if args else options.get("dim", -1)
    descending = args[1] if len(args) > 1 else options.get("descending", False)
    size = ONE if x.type.rank == 0 else x.shape[g.axis(dim, x.type.rank)]
    numbers = g.cast(x, DType.I32) if x.dtype is DType.BOOL else x
    values, order = topk(g, numbers, size, dim, descending)
    return g.cast(values, x.dtype), order


@aten("unfold")
def unfold(g: Lowering, x: Value, dim: int, size: int, step: int) -> Value:
    """Windows along an axis, their elements in a new last axis."""
    if x.type.rank == 0:
        return g.reshape(x, g.shape())
    axis = g.axis(dim, x.type.rank)
    count = g.shape()[axis]
    if step == size and x.shape[axis] == count * size:
        parts = g.reshape(x, (*x.shape[:axis], count, Dim.of(size), *x.shape[axis + 1 :]))
    else:
        places = Affine(DType.I64, (count, Dim.of(size)), (Dim.of(step), ONE), ZERO)
        parts = g.b.index.gather(x, g.tensor(places), axis=axis)
    order = [place for place in range(parts.type.rank) if place != axis + 1]
    return g.transpose(parts, [*order, axis + 1])


@aten(
    "nonzero", "masked_select", "unique_consecutive", "_unique2", "item", "_local_scalar_dense", lazy=True, refuses=True
)
def data_dependent(g: Lowering, *args: Any, **options: Any) -> Any:
    raise Unsupported(
        DATA_DEPENDENT,
        "the size of the result, or what the program does next, depends on data",
        "use torch.where, a mask or a fixed number of elements (topk) instead",
    )


@aten("take")
def take(g: Lowering, x: Value, index: Value) -> Value:
    return g.b.index.gather(g.reshape(x, (x.type.numel,)), index, axis=0)


@aten("bucketize.Tensor")
def bucketize(g: Lowering, x: Value, boundaries: Value, out_int32: bool = False, right: bool = False) -> Value:
    """How many boundaries lie below x (not above x, with right)."""
    return _count_below(g, boundaries, g.reshape(x, (*x.shape, ONE)), right)


@aten("searchsorted.Tensor")
def searchsorted(
    g: Lowering,
    sorted_sequence: Value,
    x: Value,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    if sorter is not None:
        raise g.unsupported("searchsorted with a sorter is not supported")
    row = sorted_sequence
    if row.type.rank > 1:
        row = g.reshape(row, (*row.shape[:-1], ONE, row.shape[-1]))
    return _count_below(g, row, g.reshape(x, (*x.shape, ONE)), right or side == "right")


def _count_below(g: Lowering, row: Value, x: Value, right: bool) -> Value:
    below = g.value(g.elementwise("ew.le" if right else "ew.lt", [row, x]))
    return g.b.reduce.sum(g.cast(below, g.dtype()), axes=(below.type.rank - 1,))
