"""Ops that move elements: reshape, transpose, slice, join, pad, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nomul.frontend.common import at_most
from nomul.frontend.torch.lazy import ONE, ZERO
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType


@aten(
    "alias",
    "clone",
    "contiguous",
    "detach",
    "detach_copy",
    "alias_copy",
    "lift_fresh_copy",
    "lift_fresh",
    "lift",
    lazy=True,
)
def identity(g: Lowering, x: Operand) -> Operand:
    return x


@aten("dropout")
def dropout(g: Lowering, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise g.unsupported("dropout in training mode is random", "call model.eval() before exporting")
    return x


@aten(
    "view",
    "reshape",
    "_unsafe_view",
    "view_copy",
    "_reshape_copy",
    "unsqueeze",
    "unsqueeze_copy",
    "view_as",
    "reshape_as",
)
def reshape(g: Lowering, x: Value, *unused: Any, **ignored: Any) -> Value:
    """torch has already worked out the shape."""
    return g.reshape(x, g.shape())


@aten("squeeze", "squeeze_copy", "flatten", "unflatten", "ravel")
def squeeze(g: Lowering, x: Value, *unused: Any, **ignored: Any) -> Value:
    return g.reshape(x, g.shape())


@aten("permute", "permute_copy")
def permute(g: Lowering, x: Value, dims: Sequence[int]) -> Value:
    return g.transpose(x, [g.axis(axis, x.type.rank) for axis in dims])


@aten("transpose.int", "transpose_copy.int")
def transpose(g: Lowering, x: Value, first: int, second: int) -> Value:
    if x.type.rank < 2:
        return x
    perm = list(range(x.type.rank))
    first, second = g.axis(first, x.type.rank), g.axis(second, x.type.rank)
    perm[first], perm[second] = perm[second], perm[first]
    return g.transpose(x, perm)


@aten("t", "t_copy", "numpy_T", "mT", "adjoint")
def t(g: Lowering, x: Value) -> Value:
    return x if x.type.rank < 2 else transpose(g, x, -2, -1)


@aten("expand", "expand_copy", "expand_as", "broadcast_to")
def expand(g: Lowering, x: Value, size: Any, implicit: bool = False) -> Value:
    return g.expand(x, g.shape())


def resolve_start(g: Lowering, start: Any, size: Dim) -> Dim:
    """A slice's start inside [0, size], as Python does it. Raises Unsupported where the ranges do not decide."""
    begin = ZERO if start is None else g.symbols.dim(start)
    if at_most(begin, Dim.of(-1), g.ranges):
        begin = begin + size
    if at_most(begin, ZERO, g.ranges):
        return ZERO
    if at_most(size, begin, g.ranges):
        return size
    if at_most(ZERO, begin, g.ranges) and at_most(begin, size, g.ranges):
        return begin
    raise g.unsupported(f"a slice starts at {begin} of {size}, which the ranges of the dims do not decide")


@aten("slice.Tensor", "slice_copy.Tensor")
def slice_(g: Lowering, x: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    axis = g.axis(dim, x.type.rank)
    begin = resolve_start(g, start, x.shape[axis])
    extent = g.shape()[axis]
    return g.slice(x, axis, begin, begin + (extent - 1) * step + 1 if extent != ZERO else begin, step)


@aten("select.int", "select_copy.int")
def select(g: Lowering, x: Value, dim: int, index: Any) -> Value:
    axis = g.axis(dim, x.type.rank)
    begin = resolve_start(g, index, x.shape[axis])
    return g.reshape(g.slice(x, axis, begin, begin + 1), g.shape())


@aten("narrow", "narrow_copy")
def narrow(g: Lowering, x: Value, dim: int, start: Any, length: Any) -> Value:
    return slice_(g, x, dim, start)


@aten(
    "split_with_sizes", "split_with_sizes_copy", "split.Tensor", "chunk", "unsafe_split", "unsafe_chunk", "tensor_split"
)
def split(g: Lowering, x: Value, sizes: Any, dim: int = 0) -> list[Value]:
    axis, begin, parts = g.axis(dim, x.type.rank), ZERO, []
    for index in range(len(g.node.meta["val"])):
        end = begin + g.shape(index)[axis]
        parts.append(g.slice(x, axis, begin, end))
        begin = end
    return parts


@aten("unbind", "unbind_copy")
def unbind(g: Lowering, x: Value, dim: int = 0) -> list[Value]:
    axis = g.axis(dim, x.type.rank)
    return [
        g.reshape(g.slice(x, axis, Dim.of(index), Dim.of(index + 1)), g.shape(index))
        for index in range(len(g.node.meta["val"]))
    ]


@aten("cat", "concat")
def cat(g: Lowering, tensors: Sequence[Value], dim: int = 0) -> Value:
    parts = [part for part in tensors if part.shape != (ZERO,)]
    if not parts:
        return g.cast(tensors[0], g.dtype())
    axis = g.axis(dim, parts[0].type.rank)
    cast = [g.cast(part, g.dtype()) for part in parts]
    return cast[0] if len(cast) == 1 else g.b.view.concat(*cast, axis=axis)


@aten("stack")
def stack(g: Lowering, tensors: Sequence[Value], dim: int = 0) -> Value:
    axis = g.axis(dim, tensors[0].type.rank + 1)
    parts = [g.reshape(part, (*part.shape[:axis], ONE, *part.shape[axis:])) for part in tensors]
    return cat(g, parts, axis)


@aten("flip")
def flip(g: Lowering, x: Value, dims: Sequence[int]) -> Value:
    for dim in dims:
        axis = g.axis(dim, x.type.rank)
        x = g.b.view.slice(x, axis=axis, start=x.shape[axis] - 1, stop=Dim.of(-1), step=-1)
    return x


@aten("roll")
def roll(g: Lowering, x: Value, shifts: Any, dims: Any = ()) -> Value:
    shape = x.shape
    shifts = list(shifts) if isinstance(shifts, tuple | list) else [shifts]
    dims = list(dims) if isinstance(dims, tuple | list) else [dims]
    if not dims:
        x, dims = g.reshape(x, (x.type.numel,)), [0]
    for shift, dim in zip(shifts, dims, strict=True):
        axis = g.axis(dim, x.type.rank)
        x = _rolled(g, x, axis, g.symbols.dim(shift))
    return g.reshape(x, shape)


def _rolled(g: Lowering, x: Value, axis: int, shift: Dim) -> Value:
    size = x.shape[axis]
    if shift.value is not None and size.value is not None:
        shift = Dim.of(int(shift) % max(int(size), 1))
    cut = -shift if at_most(shift, ZERO, g.ranges) else size - shift
    if cut in (ZERO, size):
        return x
    if not (at_most(ZERO, cut, g.ranges) and at_most(cut, size, g.ranges)):
        raise g.unsupported(
            f"rolls an axis of size {size} by {shift}: the ranges of the dims do not decide where it wraps"
        )
    return g.b.view.concat(g.slice(x, axis, cut, size), g.slice(x, axis, ZERO, cut), axis=axis)


@aten("repeat")
def repeat(g: Lowering, x: Value, repeats: Sequence[Any]) -> Value:
    counts = g.symbols.shape(repeats)
    x = g.reshape(x, (ONE,) * (len(counts) - x.type.rank) + x.shape)
    if all(count == ONE for count in counts):
        return x
    paired = [size for pair in zip((ONE,) * len(counts), x.shape, strict=True) for size in pair]
    wide = [size for pair in zip(counts, x.shape, strict=True) for size in pair]
    return g.reshape(g.expand(g.reshape(x, paired), wide), g.shape())


def _pads(g: Lowering, x: Value, pad: Sequence[Any]) -> tuple[list[Dim], list[Dim]]:
    """torch counts (low, high) pairs from the last axis."""
    before, after = [ZERO] * x.type.rank, [ZERO] * x.type.rank
    for index in range(len(pad) // 2):
        before[-1 - index] = g.symbols.dim(pad[2 * index])
        after[-1 - index] = g.symbols.dim(pad[2 * index + 1])
    return before, after


def _pad(g: Lowering, x: Value, pad: Sequence[Any], mode: str, value: Any = 0) -> Value:
    before, after = _pads(g, x, pad)
    cuts = [[bool(at_most(side, Dim.of(-1), g.ranges)) for side in sides] for sides in (before, after)]
    grown = [
        tuple(ZERO if cut else side for side, cut in zip(sides, flags, strict=True))
        for sides, flags in zip((before, after), cuts, strict=True)
    ]
    if any(side != ZERO for side in grown[0] + grown[1]):
        number = float(bool(value)) if x.dtype is DType.BOOL else float(value)
        x = g.b.view.pad(x, before=grown[0], after=grown[1], mode=mode, value=number)
    for axis in range(x.type.rank):  # a negative pad cuts
        low = -before[axis] if cuts[0][axis] else ZERO
        high = -after[axis] if cuts[1][axis] else ZERO
        x = g.slice(x, axis, low, x.shape[axis] - high)
    return x


@aten("constant_pad_nd")
def constant_pad(g: Lowering, x: Value, pad: Sequence[Any], value: Any = 0) -> Value:
    return _pad(g, x, pad, "constant", value)


@aten("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(g: Lowering, x: Value, pad: Sequence[Any]) -> Value:
    return _pad(g, x, pad, "reflect")


@aten("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(g: Lowering, x: Value, pad: Sequence[Any]) -> Value:
    return _pad(g, x, pad, "edge")


@aten("diagonal", "diagonal_copy")
def diagonal(g: Lowering, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The matrix axes go last and are read as one, in steps of a row and a column."""
    rows, columns = g.axis(dim1, x.type.rank), g.axis(dim2, x.type.rank)
    rest = [axis for axis in range(x.type.rank) if axis not in (rows, columns)]
    x = g.transpose(x, [*rest, rows, columns])
    height, width = x.shape[-2:]
    length = g.shape()[-1]
    flat = g.reshape(x, (*x.shape[:-2], height * width))
    start = Dim.of(offset) if offset >= 0 else width * -offset
    if length == ZERO or width.value is None:
        raise g.unsupported("a diagonal that is empty, or of a matrix of dynamic width, is not supported")
    step = int(width) + 1
    return g.slice(flat, x.type.rank - 2, start, start + (length - 1) * step + 1, step)
