"""Values known by a formula instead of a node: constants, affine functions of the indices, masks of comparisons.

Sizes, positions and attention masks of a model are mostly such values. Kept as formulas they fold away: a mask
`key <= query` becomes the attribute `causal` of an attention, an embedding of positions becomes a slice of its table.
`Lowering.value` computes one where a real tensor is needed. What ops do to them is in `ops/formula*.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nomul.frontend.common import affine_bounds
from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Scalar, Value
from nomul.ir.types import DType

Shape = tuple[Dim, ...]
Ranges = dict[str, Range]
ZERO, ONE = Dim.of(0), Dim.of(1)


@dataclass(frozen=True, eq=False)
class Uniform:
    """The same number everywhere."""

    dtype: DType
    shape: Shape
    number: Scalar


@dataclass(frozen=True, eq=False)
class Affine:
    """Integers: the element at index i is offset + sum of steps[k] * i[k]. An axis of size 1 has step 0."""

    dtype: DType
    shape: Shape
    steps: tuple[Dim, ...]
    offset: Dim

    @property
    def moving(self) -> list[int]:
        """Axes along which the number changes."""
        return [axis for axis, step in enumerate(self.steps) if step != ZERO]

    def with_shape(self, shape: Shape) -> Affine | Uniform:
        """Broadcast to a shape of at least this rank."""
        steps = (ZERO,) * (len(shape) - len(self.shape)) + self.steps
        return affine(self.dtype, shape, steps, self.offset)

    def bounds(self, ranges: Ranges) -> tuple[float, float]:
        """Enclosure of all elements."""
        return affine_bounds(self.offset, self.shape, self.steps, ranges)


@dataclass(frozen=True, eq=False)
class Mask:
    """Bools: every one of `bounds` is not negative and, where given, `tensor` (which broadcasts to shape) is true."""

    shape: Shape
    bounds: tuple[Affine, ...]
    tensor: Value | None = None

    @property
    def dtype(self) -> DType:
        return DType.BOOL


@dataclass(frozen=True, eq=False)
class Choice:
    """One number where the mask is true, another where it is false."""

    dtype: DType
    mask: Mask
    yes: Scalar
    no: Scalar

    @property
    def shape(self) -> Shape:
        return self.mask.shape


Lazy = Uniform | Affine | Mask | Choice


def affine(dtype: DType, shape: Shape, steps: Sequence[Dim], offset: Dim) -> Affine | Uniform:
    """An Affine in its normal form: Uniform when it is one known number."""
    kept = tuple(ZERO if size == ONE else step for size, step in zip(shape, steps, strict=True))
    if offset.value is not None and not any(step != ZERO for step in kept):
        return Uniform(dtype, shape, offset.value)
    return Affine(dtype, shape, kept, offset)


def as_affine(value: object) -> Affine | None:
    """The value as an Affine where it is an integer one, else None. A size is an Affine of rank 0."""
    if isinstance(value, Affine):
        return value
    if isinstance(value, Uniform) and value.dtype.is_integer:
        return Affine(value.dtype, value.shape, (ZERO,) * len(value.shape), Dim.of(int(value.number)))
    if isinstance(value, Dim) or (isinstance(value, int) and not isinstance(value, bool)):
        return Affine(DType.I64, (), (), Dim.of(value))
    return None


def combine(left: Affine, right: Affine, dtype: DType, shape: Shape, factor: int = 1) -> Affine | Uniform:
    """left + factor * right, of the given (broadcast) shape."""
    pair = [(ZERO,) * (len(shape) - len(x.shape)) + x.steps for x in (left, right)]
    steps = tuple(a + b * factor for a, b in zip(*pair, strict=True))
    return affine(dtype, shape, steps, left.offset + right.offset * factor)


def at_least_zero(value: Affine | Uniform, ranges: Ranges) -> Mask | Uniform:
    """The bools value >= 0: decided where the ranges do."""
    if isinstance(value, Uniform):
        return Uniform(DType.BOOL, value.shape, value.number >= 0)
    low, high = value.bounds(ranges)
    if low >= 0 or high < 0:
        return Uniform(DType.BOOL, value.shape, low >= 0)
    return Mask(value.shape, (value,))


def complement(mask: Mask, ranges: Ranges) -> Mask | Uniform | None:
    """Not `mask`, for a mask of one comparison."""
    if mask.tensor is not None or len(mask.bounds) != 1:
        return None
    (bound,) = mask.bounds
    steps = tuple(-step for step in bound.steps)
    return at_least_zero(affine(bound.dtype, mask.shape, steps, -bound.offset - 1), ranges)


def choose(dtype: DType, mask: Mask, yes: Scalar, no: Scalar, ranges: Ranges) -> Choice | Uniform | Mask | None:
    """The simplest form of `yes where mask else no`; None where bools cannot be said as one mask."""
    if yes == no:
        return Uniform(dtype, mask.shape, yes)
    if dtype is DType.BOOL:
        return mask if yes else complement(mask, ranges)
    return Choice(dtype, mask, yes, no)


def recognise(array: np.ndarray) -> Affine | Uniform | None:
    """The formula of a constant integer or bool array that is uniform or counts evenly along its axes."""
    if array.size == 0 or array.dtype.kind not in "iub":
        return None
    shape = tuple(Dim.of(size) for size in array.shape)
    dtype = DType.from_numpy(array.dtype)
    first = array.flat[0].item()
    if (array == first).all():
        return Uniform(dtype, shape, first)
    if array.dtype.kind == "b":
        return None
    steps, expected = [], np.full(array.shape, first, np.int64)
    for axis, size in enumerate(array.shape):
        second = tuple(int(other == axis) for other in range(array.ndim))
        step = int(array[second]) - first if size > 1 else 0
        steps.append(Dim.of(step))
        line = np.arange(size) * step
        expected += line.reshape((size,) + (1,) * (array.ndim - axis - 1))
    return affine(dtype, shape, steps, Dim.of(first)) if (array == expected).all() else None


def counts_rows(bound: Affine) -> bool:
    """Whether bound >= 0 says `key <= query` on the last two axes (queries, keys) of a mask."""
    leading, last = bound.steps[:-2], bound.steps[-2:]
    return bound.offset == ZERO and last == (ONE, Dim.of(-1)) and all(step == ZERO for step in leading)


def triangle(shape: Shape, diagonal: int, sign: int, ranges: Ranges) -> Mask | Uniform:
    """On the last two axes (row, column): column - row <= diagonal (sign 1, tril) or >= diagonal (sign -1, triu)."""
    steps = [ZERO] * (len(shape) - 2) + [Dim.of(sign), Dim.of(-sign)]
    return at_least_zero(affine(DType.I64, shape, steps, Dim.of(sign * diagonal)), ranges)
