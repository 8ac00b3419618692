"""Arithmetic of known symbolic sizes: `Shape -> Gather -> Mul -> Concat -> Reshape` and the like never reach the graph.

Every function takes operands that are all known and gives object arrays of Dim, or None where ranges do not decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nomul.frontend.common import at_most, equal
from nomul.frontend.onnx.entry import MAX_SIZES, Entry, dim_array
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op, size_op
from nomul.frontend.onnx.tensors import ir_dtype
from nomul.ir.dim import Dim, Range, product
from nomul.ir.types import DType

Rule = Callable[[SourceNode, Dim, Dim], "Dim | bool | None"]


@onnx_op("Shape")
def shape(n: SourceNode) -> np.ndarray:
    sizes = n.shape(0)
    rank = len(sizes)
    start, end = n.attr("start", 0), n.attr("end", rank)
    start, end = (min(max(bound + rank if bound < 0 else bound, 0), rank) for bound in (start, end))
    return dim_array(list(sizes[start:end]), (max(end - start, 0),))


@onnx_op("Size")
def size(n: SourceNode) -> np.ndarray:
    return dim_array([n.type(0).numel], ())


def _pairwise(n: SourceNode, rule: Rule, left: int = 0, right: int = 1) -> np.ndarray | None:
    """rule on broadcast operands; None as soon as one pair is undecided."""
    x, y = n.sizes(left), n.sizes(right)
    if x is None or y is None:
        return None
    pairs = np.broadcast(x, y)
    results = [rule(n, *pair) for pair in pairs]
    if any(result is None for result in results):
        return None
    array = np.empty(len(results), bool if results and isinstance(results[0], bool) else object)
    array[:] = results
    return array.reshape(pairs.shape)


@size_op("Add")
def add(n: SourceNode) -> np.ndarray | None:
    return _pairwise(n, lambda n, a, b: a + b)


@size_op("Sub")
def sub(n: SourceNode) -> np.ndarray | None:
    return _pairwise(n, lambda n, a, b: a - b)


@size_op("Mul")
def mul(n: SourceNode) -> np.ndarray | None:
    return _scaled(n, invert=False) if n.dtype().is_float else _pairwise(n, lambda n, a, b: a * b)


@size_op("Div")
def div(n: SourceNode) -> np.ndarray | None:
    return _scaled(n, invert=True) if n.dtype().is_float else _pairwise(n, _quotient)


def _quotient(n: SourceNode, a: Dim, b: Dim) -> Dim | None:
    """Integer division truncates; sizes that may be negative are left alone."""
    if a.bounds(n.importer.ranges)[0] < 0 or b == 0:
        return None
    try:
        return a // b
    except ValueError:
        return None


def _scaled(n: SourceNode, invert: bool) -> np.ndarray | None:
    """Sizes as floats, times or over whole numbers, where the result is whole again."""

    def rule(n: SourceNode, a: Dim, b: Dim) -> Dim | None:
        try:
            return a.divide_exactly(b) if invert else a * b
        except ValueError:
            return None

    return _pairwise(n, rule)


@size_op("Mod")
def mod(n: SourceNode) -> np.ndarray | None:
    def rule(n: SourceNode, a: Dim, b: Dim) -> Dim | None:
        positive = b.value is not None and int(b) > 0 and a.bounds(n.importer.ranges)[0] >= 0
        return a % int(b) if positive else None

    return _pairwise(n, rule)


@size_op("Floor", "Ceil", "Round", "Identity")
def same(n: SourceNode) -> np.ndarray | None:
    return n.sizes(0)


@size_op("Abs", "Relu")
def positive(n: SourceNode) -> np.ndarray | None:
    sizes = n.sizes(0)
    assert sizes is not None
    return sizes if all(size.bounds(n.importer.ranges)[0] >= 0 for size in sizes.flat) else None


@size_op("Neg")
def neg(n: SourceNode) -> np.ndarray | None:
    sizes = n.sizes(0)
    assert sizes is not None
    return dim_array([-size for size in sizes.flat], sizes.shape)


@size_op("Min", "Max")
def extreme(n: SourceNode) -> np.ndarray | None:
    smaller = n.op_type == "Min"

    def rule(n: SourceNode, a: Dim, b: Dim) -> Dim | None:
        decided = at_most(a, b, n.importer.ranges)
        if decided is None:
            decided = None if (other := at_most(b, a, n.importer.ranges)) is None else not other
        return None if decided is None else a if decided == smaller else b

    return _pairwise(n, rule) if len(n.operands) == 2 else None


_RELATIONS: dict[str, Callable[[Dim, Dim, Mapping[str, Range]], bool | None]] = {
    "Equal": equal,
    "LessOrEqual": at_most,
    "Less": lambda a, b, ranges: at_most(a + 1, b, ranges),
    "GreaterOrEqual": lambda a, b, ranges: at_most(b, a, ranges),
    "Greater": lambda a, b, ranges: at_most(b + 1, a, ranges),
}


@size_op(*_RELATIONS)
def compare(n: SourceNode) -> np.ndarray | None:
    relation = _RELATIONS[n.op_type]
    return _pairwise(n, lambda n, a, b: relation(a, b, n.importer.ranges))


@size_op("Where")
def where(n: SourceNode) -> np.ndarray | None:
    condition, x, y = n.constant(0), n.sizes(1), n.sizes(2)
    return None if condition is None or x is None or y is None else np.where(condition, x, y)


@size_op("Cast")
def cast(n: SourceNode) -> Entry | None:
    dtype = ir_dtype(n.need_attr("to"), "the result")
    sizes = n.sizes(0)
    known = sizes is not None and dtype in (DType.I64, DType.I32, DType.F32, DType.F64)
    return Entry.of_sizes(n.outputs[0], sizes, dtype) if known and sizes is not None else None


@size_op("Gather")
def gather(n: SourceNode) -> np.ndarray | None:
    sizes, indices = n.sizes(0), n.constant(1)
    return None if sizes is None or indices is None else np.asarray(_boxed(sizes.take(indices, n.attr("axis", 0))))


def _boxed(found: object) -> np.ndarray:
    """A single Dim as an object array of rank 0."""
    return dim_array([found], ()) if isinstance(found, Dim) else found  # type: ignore[return-value]


@size_op("Concat")
def concat(n: SourceNode) -> np.ndarray | None:
    parts = [n.sizes(index) for index in range(len(n.operands))]
    known = [part for part in parts if part is not None]
    return np.concatenate(known, n.need_attr("axis")) if len(known) == len(parts) else None


@size_op("Slice")
def slice_sizes(n: SourceNode) -> np.ndarray | None:
    sizes = n.sizes(0)
    if sizes is None or n.entry(0).sizes is None or any(n.has(i) and n.constant(i) is None for i in (1, 2)):
        return None
    starts, ends, axes, steps = (n.ints(i, name) for i, name in enumerate(("starts", "ends", "axes", "steps"), 1))
    if starts is None or ends is None:
        return None
    where: list[slice] = [slice(None)] * sizes.ndim
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[index] if steps else 1
        stop = None if step < 0 and end < -sizes.shape[axes[index] if axes else index] else end
        where[axes[index] if axes else index] = slice(start, stop, step)
    return sizes[tuple(where)]


@size_op("Split")
def split(n: SourceNode) -> tuple[np.ndarray, ...] | None:
    sizes, parts = n.sizes(0), n.ints(1, "split")
    if sizes is None:
        return None
    places = np.cumsum(parts)[:-1] if parts else len(n.outputs)
    return tuple(np.split(sizes, places, n.attr("axis", 0)))


@size_op("Unsqueeze")
def unsqueeze(n: SourceNode) -> np.ndarray | None:
    sizes, axes = n.sizes(0), n.ints(1, "axes")
    return None if sizes is None or axes is None else np.expand_dims(sizes, tuple(axes))


@size_op("Squeeze")
def squeeze(n: SourceNode) -> np.ndarray | None:
    sizes, axes = n.sizes(0), n.ints(1, "axes")
    return None if sizes is None else sizes.squeeze(tuple(axes) if axes is not None else None)


@size_op("Reshape")
def reshape(n: SourceNode) -> np.ndarray | None:
    sizes, target = n.sizes(0), n.constant(1)
    return None if sizes is None or target is None else sizes.reshape([int(size) for size in target])


@size_op("Flatten")
def flatten(n: SourceNode) -> np.ndarray | None:
    sizes = n.sizes(0)
    return sizes.reshape(1, -1) if sizes is not None and sizes.ndim == 1 and n.attr("axis", 1) == 0 else None


@size_op("Transpose")
def transpose(n: SourceNode) -> np.ndarray | None:
    sizes = n.sizes(0)
    return None if sizes is None else sizes.transpose(n.attr("perm"))


@size_op("Expand")
def expand(n: SourceNode) -> np.ndarray | None:
    sizes, target = n.sizes(0), n.constant(1)
    if sizes is None or target is None or np.prod(target) > MAX_SIZES:
        return None
    return np.broadcast_to(sizes, np.broadcast_shapes(sizes.shape, tuple(int(size) for size in target)))


@size_op("Tile")
def tile(n: SourceNode) -> np.ndarray | None:
    sizes, repeats = n.sizes(0), n.constant(1)
    if sizes is None or repeats is None or sizes.size * np.prod(repeats) > MAX_SIZES:
        return None
    return np.tile(sizes, [int(count) for count in repeats])


def _reduced(n: SourceNode, combine: Callable[[list[Dim]], Dim]) -> np.ndarray | None:
    """A reduction of a vector to one number."""
    sizes, axes = n.sizes(0), n.ints(1, "axes")
    if sizes is None or sizes.ndim != 1 or axes not in (None, [], [0], [-1]):
        return None
    return dim_array([combine(list(sizes))], (1,) if n.attr("keepdims", 1) else ())


@size_op("ReduceProd")
def reduce_prod(n: SourceNode) -> np.ndarray | None:
    return _reduced(n, product)


@size_op("ReduceSum")
def reduce_sum(n: SourceNode) -> np.ndarray | None:
    return _reduced(n, lambda dims: sum(dims, Dim.of(0)))


@size_op("ScatterND")
def scatter_nd(n: SourceNode) -> np.ndarray | None:
    """Single sizes of a vector exchanged, as exporters write `shape[i] = size`."""
    sizes, indices, updates = n.sizes(0), n.constant(1), n.sizes(2)
    if sizes is None or indices is None or updates is None or sizes.ndim != 1 or n.attr("reduction", "none") != "none":
        return None
    changed = sizes.copy()
    changed[indices.reshape(-1)] = updates.reshape(-1)
    return changed
