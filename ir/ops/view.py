"""Ops that move elements and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.op import Kind, op
from nomul.ir.signature import TypeFault, broadcast, check_number
from nomul.ir.types import Tensor

VIEW = Kind.VIEW


def infer_reshape(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    result = x.with_shape(attrs["shape"])
    if result.numel != x.numel:
        raise TypeFault(
            f"cannot reshape {x} to [{', '.join(map(str, attrs['shape']))}]: {x.numel} elements against {result.numel}",
            0,
        )
    return result


@op("view.reshape", VIEW, infer=infer_reshape)
def reshape(x: "t[...]", *, shape: tuple[Dim, ...]) -> "t[...]":
    """The same elements in row-major order under another shape."""
    return x.reshape(shape)


def infer_transpose(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    if sorted(attrs["perm"]) != list(range(x.rank)):
        raise TypeFault(f"perm {list(attrs['perm'])} is not a permutation of the axes of {x}", 0)
    return x.with_shape(tuple(x.shape[axis] for axis in attrs["perm"]))


@op("view.transpose", VIEW, infer=infer_transpose)
def transpose(x: "t[...]", *, perm: tuple[int, ...]) -> "t[...]":
    """Axis i of the result is axis perm[i] of x."""
    return x.transpose(perm).copy()


def infer_expand(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    if broadcast(x.shape, attrs["shape"], 0) != attrs["shape"]:
        raise TypeFault(f"cannot expand {x} to [{', '.join(map(str, attrs['shape']))}]", 0)
    return x.with_shape(attrs["shape"])


@op("view.expand", VIEW, infer=infer_expand)
def expand(x: "t[...]", *, shape: tuple[Dim, ...]) -> "t[...]":
    """Repeat along axes of size 1 and new leading axes (numpy's broadcast)."""
    return np.broadcast_to(x, shape).copy()


def infer_slice(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    axis, step = attrs["axis"], attrs["step"]
    if not 0 <= axis < x.rank or step == 0:
        raise TypeFault(f"axis {axis} with step {step} does not fit {x}", 0)
    extent = attrs["stop"] - attrs["start"] if step > 0 else attrs["start"] - attrs["stop"]
    size = (extent + (abs(step) - 1)) // abs(step)
    low, high = (attrs["start"], attrs["stop"]) if step > 0 else (attrs["stop"] + 1, attrs["start"] + 1)
    if any((part.value or 0) < 0 for part in (low, x.shape[axis] - high, size)):
        raise TypeFault(f"slice [{attrs['start']}:{attrs['stop']}:{step}] of axis {axis} is outside {x}", 0)
    return x.with_shape((*x.shape[:axis], size, *x.shape[axis + 1 :]))


@op("view.slice", VIEW, infer=infer_slice)
def slice_(x: "t[...]", *, axis: int, start: Dim = Dim.of(0), stop: Dim, step: int = 1) -> "t[...]":
    """Elements start, start + step, ... before stop along one axis; bounds are inside [0, size] and already resolved.
    With a negative step, stop is one below the last element, so -1 reaches element 0."""
    indices = np.arange(start, stop, step)
    return np.take(x, indices, axis=axis)


def infer_concat(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    first, axis = types[0], attrs["axis"]
    if first is None or not 0 <= axis < first.rank:
        raise TypeFault(f"axis {axis} does not fit {first}", 0)
    size = Dim.of(0)
    for position, given in enumerate(types):
        assert given is not None
        same = given.rank == first.rank and all(
            given.shape[i] == first.shape[i] for i in range(first.rank) if i != axis
        )
        if not same:
            raise TypeFault(f"cannot concatenate {given} to {first} along axis {axis}", position)
        size = size + given.shape[axis]
    return first.with_shape((*first.shape[:axis], size, *first.shape[axis + 1 :]))


@op("view.concat", Kind.OTHER, infer=infer_concat)
def concat(*xs: "t[_any]", axis: int) -> "t[...]":
    """Join along an axis."""
    return np.concatenate(xs, axis=axis)


def infer_pad(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x = types[0]
    assert x is not None
    before, after = attrs["before"], attrs["after"]
    if len(before) != x.rank or len(after) != x.rank:
        raise TypeFault(f"{len(before)} and {len(after)} pads for {x}", 0)
    if any((pad.value or 0) < 0 for pad in (*before, *after)):
        raise TypeFault("a pad is negative (view.slice takes elements away)")
    check_number(attrs["value"], x.dtype)
    return x.with_shape(tuple(size + low + high for size, low, high in zip(x.shape, before, after, strict=True)))


@op("view.pad", Kind.OTHER, infer=infer_pad)
def pad(
    x: "t[...]",
    *,
    before: tuple[Dim, ...],
    after: tuple[Dim, ...],
    mode: Literal["constant", "reflect", "edge", "wrap"] = "constant",
    value: float = 0.0,
) -> "t[...]":
    """Add `before` and `after` elements along each axis: a value, or by reflect, edge, wrap as numpy.pad."""
    widths = list(zip(before, after, strict=True))
    if mode == "constant":
        return np.pad(x, widths, constant_values=x.dtype.type(value))
    return np.pad(x, widths, mode=mode)
