"""Pieces of attention that the rules of this family build with."""

from __future__ import annotations

from math import inf
from typing import Any

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE, Shape
from nomul.ir.types import DType


def need(node: Node, position: int) -> Value:
    value = node.operand(position)
    assert value is not None
    return value


def swapped(g: Any, x: Value) -> Value:
    """The last two axes exchanged."""
    rank = x.type.rank
    return g.view.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def by_heads(g: Any, x: Value) -> Value:
    """[B, S, H, D] as [B, H, S, D], and back."""
    return g.view.transpose(x, perm=(0, 2, 1, 3))


def repeated(g: Any, x: Value, heads: Dim) -> Value:
    """[B, T, G, D] with every head H / G times."""
    batch, tokens, groups, size = x.shape
    if groups == heads:
        return x
    wide = (batch, tokens, groups, heads.divide_exactly(groups), size)
    apart = g.view.reshape(x, shape=(batch, tokens, groups, ONE, size))
    return g.view.reshape(g.view.expand(apart, shape=wide), shape=(batch, tokens, heads, size))


def hidden(g: Any, seen: Value, scores: Value, low: float = -inf) -> Value:
    """Scores where `seen` holds, elsewhere a low number."""
    return g.ew.where(seen, scores, Constant(low, scores.dtype))


def divided(g: Any, x: Value, divisor: Value) -> Value:
    """x / divisor, and 0 where the divisor is 0."""
    zero, one = (Constant(number, x.dtype) for number in (0.0, 1.0))
    nothing = g.ew.eq(divisor, zero)
    return g.ew.where(nothing, zero, g.ew.div(x, g.ew.where(nothing, one, divisor)))


def total(g: Any, x: Value, axis: int) -> Value:
    return g.reduce.sum(x, axes=(axis,), keepdims=True)


def count_along(g: Any, size: Dim, rank: int, axis: int) -> Value:
    """0, 1, ... along one axis of a tensor of that rank."""
    shape = tuple(size if place == axis else ONE for place in range(rank))
    return g.view.reshape(g.make.iota(size=size), shape=shape)


def as_float(g: Any, size: Dim, dtype: DType) -> Value:
    """A size as a float."""
    known = size.value
    return Constant(float(known), dtype) if known is not None else g.ew.cast(g.make.size(size=size), dtype=dtype)


def padded(g: Any, x: Value, axis: int, after: Dim) -> Value:
    """x with zeros behind it along an axis."""
    if after == 0:
        return x
    none: Shape = (Dim.of(0),) * x.type.rank
    behind = tuple(after if place == axis else Dim.of(0) for place in range(x.type.rank))
    return g.view.pad(x, before=none, after=behind)
