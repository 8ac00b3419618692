"""Arithmetic on symbolic shapes: which axes a reshape merges and splits, and strides through chains of views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value

Shape = tuple[Dim, ...]
ONE = Dim.of(1)


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
            take_left = _divides(product_i, product_j) or not _divides(product_j, product_i)
            take_right = _divides(product_j, product_i) or not _divides(product_i, product_j)
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


def _divides(divisor: Dim, dim: Dim) -> bool:
    try:
        dim.divide_exactly(divisor)
    except ValueError:
        return False
    return True


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def row_major(shape: Shape) -> Shape:
    """Strides of a contiguous tensor, in elements."""
    strides: list[Dim] = []
    step = ONE
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))


def view_chain(value: Value) -> list[Node]:
    """The view nodes above a value, the nearest first."""
    chain = []
    while value.producer is not None and value.producer.op in AFFINE_VIEWS:
        chain.append(value.producer)
        operand = value.producer.args[0]
        assert operand is not None
        value = operand
    return chain


AFFINE_VIEWS = ("view.reshape", "view.transpose", "view.slice", "view.expand")


def strides_through(chain: Sequence[Node]) -> Shape | None:
    """Strides of the result of a view chain (nearest first) over a contiguous source; None where it is not affine."""
    if not chain:
        return None
    source = chain[-1].args[0]
    assert source is not None
    strides: Shape | None = row_major(source.shape)
    for node in reversed(chain):
        operand = node.args[0]
        assert operand is not None and strides is not None
        strides = _step(node, operand.shape, strides)
        if strides is None:
            return None
    return strides


def _step(node: Node, shape: Shape, strides: Shape) -> Shape | None:
    if node.op == "view.transpose":
        return tuple(strides[axis] for axis in node.attrs["perm"])
    if node.op == "view.slice":
        axis = node.attrs["axis"]
        return (*strides[:axis], strides[axis] * node.attrs["step"], *strides[axis + 1 :])
    if node.op == "view.expand":
        lead = node.result.type.rank - len(shape)
        kept = [
            Dim.of(0) if old == ONE and new != ONE else stride
            for old, new, stride in zip(shape, node.result.shape[lead:], strides, strict=True)
        ]
        return (*(Dim.of(0),) * lead, *kept)
    return reshaped_strides(shape, strides, node.result.shape)


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
