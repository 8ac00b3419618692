"""Operators that move elements: reshape, transpose, slice, split, join, pad."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.frontend.common import BAD_NODE
from nomul.frontend.onnx.entry import Entry
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim, ceil_div, product
from nomul.ir.graph import Value
from nomul.ir.types import DType

_FAR = 2**31 - 1  # slice bounds from here on mean "to the end"


@onnx_op("Reshape")
def reshape(n: SourceNode) -> Value | Entry:
    """0 copies a size, -1 takes what is left (a quotient that must be exact)."""
    target = n.need_sizes(1, "the shape of a reshape")
    shape = n.shape()
    sizes = [shape[i] if size == 0 and not n.attr("allowzero", 0) else size for i, size in enumerate(target)]
    return reshape_to(n, n.tensor(), sizes)


def reshape_to(n: SourceNode, x: Value, sizes: Sequence[Dim]) -> Value:
    """A reshape to sizes of which one may be -1."""
    open_axes = [axis for axis, size in enumerate(sizes) if size == -1]
    if len(open_axes) > 1 or any(size.value is not None and size.value < -1 for size in sizes):
        n.fail(BAD_NODE, f"cannot reshape {x.type} to [{', '.join(map(str, sizes))}]")
    if open_axes:
        others = product([size for size in sizes if size != -1])
        left = Dim.of(0) if others == 0 else n.divide(x.type.numel, others)
        sizes = [left if size == -1 else size for size in sizes]
    return n.reshape(x, sizes)


@onnx_op("Flatten")
def flatten(n: SourceNode) -> Value:
    shape = n.shape()
    axis = n.attr("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return n.reshape(n.tensor(), (product(shape[:axis]), product(shape[axis:])))


@onnx_op("Unsqueeze")
def unsqueeze(n: SourceNode) -> Value:
    listed = n.ints(1, "axes")
    if listed is None:
        n.fail(BAD_NODE, "the axes are missing")
    rank = n.rank() + len(listed)
    axes, rest = n.axes(listed, rank), iter(n.shape())
    if len(set(axes)) != len(axes):
        n.fail(BAD_NODE, f"axes {list(axes)} are not unique")
    return n.reshape(n.tensor(), [Dim.of(1) if axis in axes else next(rest) for axis in range(rank)])


@onnx_op("Squeeze")
def squeeze(n: SourceNode) -> Value:
    listed = n.ints(1, "axes")
    shape = n.shape()
    axes = n.axes(listed) if listed is not None else [axis for axis, size in enumerate(shape) if size == 1]
    for axis in axes:
        n.same_size(shape[axis], Dim.of(1))
    return n.reshape(n.tensor(), [size for axis, size in enumerate(shape) if axis not in axes])


@onnx_op("Transpose")
def transpose(n: SourceNode) -> Value:
    return n.transpose(n.tensor(), n.attr("perm") or range(n.rank())[::-1])


@onnx_op("Expand")
def expand(n: SourceNode) -> Value:
    shape = n.broadcast(n.shape(), tuple(n.need_sizes(1, "the shape of an expand")))
    uniform = n.uniform_operand(0) if shape != n.shape() else None
    return n.expand(n.tensor(), shape) if uniform is None else n.full(shape, uniform, n.dtype())


@onnx_op("Tile")
def tile(n: SourceNode) -> Value:
    """Each repeated axis is split into (repeats, size), expanded and joined again."""
    x, repeats = n.tensor(), n.need_sizes(1, "the repeats of a tile")
    split, wide = [], []
    for size, count in zip(x.shape, repeats, strict=True):
        split += [size] if count == 1 else [Dim.of(1), size]
        wide += [size] if count == 1 else [count, size]
    if split == wide:
        return x
    copies = n.b.view.expand(n.reshape(x, split), shape=wide)
    return n.reshape(copies, [size * count for size, count in zip(x.shape, repeats, strict=True)])


@onnx_op("Concat")
def concat(n: SourceNode) -> Value:
    axis = n.axis(n.need_attr("axis"))
    first = n.shape()
    for index in range(1, len(n.operands)):
        for place, (left, right) in enumerate(zip(first, n.shape(index), strict=True)):
            if place != axis:
                n.same_size(left, right)
    return n.tensor() if len(n.operands) == 1 else n.b.view.concat(*n.values(), axis=axis)


@onnx_op("Split")
def split(n: SourceNode) -> tuple[Value, ...]:
    x, axis = n.tensor(), n.axis(n.attr("axis", 0))
    sizes = split_sizes(n, x.shape[axis])
    results, start = [], Dim.of(0)
    for size in sizes:
        results.append(n.slice(x, axis, start, start + size))
        start = start + size
    return tuple(results)


def split_sizes(n: SourceNode, whole: Dim) -> list[Dim]:
    """The lengths of the parts: as given, else equal, the last one shorter."""
    count = n.attr("num_outputs", len(n.outputs))
    if n.has(1) or "split" in n.attributes:
        sizes = n.need_sizes(1, "the parts of a split") if n.has(1) else [Dim.of(part) for part in n.attr("split")]
        n.same_size(sum(sizes, Dim.of(0)), whole)
        return sizes
    if whole.value is None:
        return [n.divide(whole, count)] * count
    part = ceil_div(whole, count)
    return [part] * (count - 1) + [whole - part * (count - 1)]


@onnx_op("Slice")
def slice_(n: SourceNode) -> Value:
    if n.opset < 10:
        starts, ends = ([Dim.of(i) for i in n.need_attr(name)] for name in ("starts", "ends"))
        axes, steps = n.attr("axes"), None
    else:
        starts, ends = n.need_sizes(1, "the start of a slice"), n.need_sizes(2, "the end of a slice")
        axes, steps = n.ints(3, "axes"), n.ints(4, "steps")
    axes = n.axes(axes) if axes is not None else tuple(range(len(starts)))
    shape = n.shape()
    bounds = {
        axis: (*slice_bounds(n, start, end, shape[axis], steps[index] if steps else 1), steps[index] if steps else 1)
        for index, (axis, start, end) in enumerate(zip(axes, starts, ends, strict=True))
    }
    counted = _counted(n, bounds)
    if counted is not None:
        return counted
    x = n.tensor()
    for axis, (low, high, step) in bounds.items():
        x = n.slice(x, axis, low, high, step)
    return x


def _counted(n: SourceNode, bounds: dict[int, tuple[Dim, Dim, int]]) -> Value | None:
    """A symbolic piece of a constant 0, 1, 2, ... (a table of positions) is counted, one of equal numbers is filled."""
    numbers, symbolic = n.constant(0), [axis for axis, (_, high, _) in bounds.items() if high.value is None]
    if numbers is None or len(symbolic) != 1 or not 0 < numbers.size == numbers.shape[symbolic[0]]:
        return None
    low, high, step = bounds[symbolic[0]]
    shape = [high - low if axis == symbolic[0] else Dim.of(1) for axis in range(n.rank())]
    flat = numbers.reshape(-1)
    if step == 1 and (flat == flat[0]).all():
        return n.full(shape, float(flat[0]), n.dtype())
    if step == 1 and n.dtype().is_integer and np.array_equal(flat, np.arange(flat.size)):
        return n.reshape(n.b.make.iota(size=high - low, start=low, dtype=n.dtype()), shape)
    return None


def slice_bounds(n: SourceNode, start: Dim, end: Dim, size: Dim, step: int) -> tuple[Dim, Dim]:
    """Bounds inside the axis, as `view.slice` takes them."""
    zero, one = Dim.of(0), Dim.of(1)
    if step > 0:
        low, high = _bound(n, start, size, zero, size), _bound(n, end, size, zero, size)
        empty = at_most_now(n, high, low)
    else:
        low, high = _bound(n, start, size, -one, size - 1), _bound(n, end, size, -one, size - 1)
        empty = at_most_now(n, low, high)
    return (low, low) if empty else (low, high)


def at_most_now(n: SourceNode, left: Dim, right: Dim) -> bool:
    """Whether left <= right is certain."""
    return (right - left).bounds(n.importer.ranges)[0] >= 0


def _bound(n: SourceNode, bound: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    """A bound that may be negative, for counting from the end, or far outside."""
    least, most = bound.bounds(n.importer.ranges)
    if least >= _FAR:
        return high
    if most <= -_FAR:
        return low
    if most < 0:
        bound = bound + size
    elif least < 0:
        n.at_most(Dim.of(0), bound)
    return n.clamp(bound, low, high)


@onnx_op("Pad")
def pad(n: SourceNode) -> Value:
    x, mode = n.tensor(), n.attr("mode", "constant")
    pads = [Dim.of(p) for p in n.need_attr("pads")] if n.opset < 11 else n.need_sizes(1, "the pads")
    listed = n.ints(3, "axes") if n.opset >= 18 else None
    axes = n.axes(listed) if listed is not None else tuple(range(x.type.rank))
    before, after = [Dim.of(0)] * x.type.rank, [Dim.of(0)] * x.type.rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = pads[index], pads[index + len(axes)]
    for axis in range(x.type.rank):  # a negative pad cuts off
        low, high = (_cut(n, side[axis]) for side in (before, after))
        x = n.slice(x, axis, low, x.shape[axis] - high)
        before[axis], after[axis] = before[axis] + low, after[axis] + high
    if all(size == 0 for size in before + after):
        return x
    value = n.attr("value", 0.0) if n.opset < 11 else _fill(n)
    return n.b.view.pad(x, before=before, after=after, mode=mode, value=value)


def _cut(n: SourceNode, pad: Dim) -> Dim:
    return -pad if at_most_now(n, pad, Dim.of(-1)) else Dim.of(0)


def _fill(n: SourceNode) -> float:
    return float(n.need_constant(2, "the padding value").reshape(())) if n.has(2) else 0.0


@onnx_op("DepthToSpace")
def depth_to_space(n: SourceNode) -> Value:
    """DCR: depth is [block, block, C]; CRD: [C, block, block]."""
    batch, depth, high, wide = n.shape()
    block = n.need_attr("blocksize")
    channels = n.divide(depth, block * block)
    if n.attr("mode", "DCR") == "DCR":
        parts = n.reshape(n.tensor(), (batch, block, block, channels, high, wide))
        moved = n.transpose(parts, (0, 3, 4, 1, 5, 2))
    else:
        parts = n.reshape(n.tensor(), (batch, channels, block, block, high, wide))
        moved = n.transpose(parts, (0, 1, 4, 2, 5, 3))
    return n.reshape(moved, (batch, channels, high * block, wide * block))


@onnx_op("SpaceToDepth")
def space_to_depth(n: SourceNode) -> Value:
    batch, channels, high, wide = n.shape()
    block = n.need_attr("blocksize")
    rows, columns = n.divide(high, block), n.divide(wide, block)
    parts = n.reshape(n.tensor(), (batch, channels, rows, block, columns, block))
    order = (0, 3, 5, 1, 2, 4) if n.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = n.transpose(parts, order)
    return n.reshape(moved, (batch, channels * (block * block), rows, columns))


@onnx_op("Trilu")
def trilu(n: SourceNode) -> Value:
    """Compare row and column numbers: column - row >= k keeps the upper part, <= k the lower."""
    x = n.tensor()
    k = int(n.need_constant(1, "k").reshape(())) if n.has(1) else 0
    rows, columns = x.shape[-2:]
    row = n.reshape(n.b.make.iota(size=rows), (rows, 1))
    offset = n.b.ew.sub(n.b.make.iota(size=columns), row)
    kept = n.b.ew.ge(offset, k) if n.attr("upper", 1) else n.b.ew.le(offset, k)
    return n.b.ew.where(kept, x, x.dtype is not DType.BOOL and 0)


@onnx_op("ReverseSequence")
def reverse_sequence(n: SourceNode) -> Value:
    """Constant lengths only: the reversed order is then a constant index."""
    lengths = n.need_constant(1, "the lengths of sequences")
    time, batch = n.attr("time_axis", 0), n.attr("batch_axis", 1)
    size = n.shape()[time].value
    if size is None:
        n.unsupported("the time axis must have a constant size")
    steps = np.arange(size)
    order = np.stack([np.where(steps < length, length - 1 - steps, steps) for length in lengths], axis=batch)
    index = n.weight(order.astype(np.int64), "order")
    tail = n.shape()[2:]
    index = n.reshape(index, (*index.shape, *[Dim.of(1)] * len(tail)))
    wide = n.b.view.expand(index, shape=(*index.shape[:2], *tail)) if tail else index
    return n.b.index.gather_elements(n.tensor(), wide, axis=time)
