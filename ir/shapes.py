"""Arithmetic on symbolic shapes: which axes a reshape merges and splits, and strides of contiguous and reshaped
tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nomul.ir.dim import Dim

Shape = tuple[Dim, ...]
NOTHING, ONE = Dim.of(0), Dim.of(1)


@dataclass(frozen=True)
class AxisGroup:
    """Source axes whose elements go to exactly these target axes. Axes of size 1 are in no group."""

    source: tuple[int, ...]
    target: tuple[int, ...]


def reshape_groups(source: Shape, target: Shape) -> list[AxisGroup]:
    """The smallest independent parts of a reshape, in order."""
    left = [axis for axis, size in enumerate(source) if size != ONE]
    right = [axis for axis, size in enumerate(target) if size != ONE]
    groups: list[AxisGroup] = []
    i = j = 0
    while i < len(left) and j < len(right):
        begin_i, begin_j = i, j
        product_i, product_j = source[left[i]], target[right[j]]
        i, j = i + 1, j + 1
        while product_i != product_j:
            take_left = product_i.divides(product_j) or not product_j.divides(product_i)
            take_right = product_j.divides(product_i) or not product_i.divides(product_j)
            if i < len(left) and (take_left or j == len(right)):
                product_i, i = product_i * source[left[i]], i + 1
            if j < len(right) and product_i != product_j and (take_right or i == len(left)):
                product_j, j = product_j * target[right[j]], j + 1
            if i == len(left) and j == len(right):
                break
        groups.append(AxisGroup(tuple(left[begin_i:i]), tuple(right[begin_j:j])))
    if i < len(left) or j < len(right):  # sizes that are 1 only for some values of a dim
        tail = groups.pop() if groups else AxisGroup((), ())
        groups.append(AxisGroup(tail.source + tuple(left[i:]), tail.target + tuple(right[j:])))
    return groups


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def row_major(shape: Sequence[Dim]) -> Shape:
    """Strides of a contiguous tensor, in elements."""
    strides: list[Dim] = []
    step = ONE
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def reshaped_strides(shape: Shape, strides: Shape, target: Shape) -> Shape | None:
    """Strides after a reshape without copying; None where merged axes do not lie one behind the other."""
    result = [Dim.of(0)] * len(target)
    for group in reshape_groups(shape, target):
        for axis, following in zip(group.source, group.source[1:], strict=False):
            if strides[axis] != strides[following] * shape[following]:
                return None
        if not group.source:
            return None
        step = strides[group.source[-1]]
        for axis in reversed(group.target):
            result[axis] = step
            step = step * target[axis]
    return tuple(result)
