"""Reductions, searches and scans. Sums and products of floats are carried in f64, so that long ones stay exact."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind
from nomul.backends.frame import index_constant
from nomul.backends.generic import element, line
from nomul.backends.generic.pull import Cell, Line, Pull, replaced
from nomul.backends.generic.view import operand_shape
from nomul.ir.dim import product
from nomul.ir.graph import Node
from nomul.ir.types import DType


def wide_type(dtype: DType) -> str:
    """In what sums of `dtype` are carried; integers wrap, so 64 bits serve all of them."""
    return "float64" if dtype.is_float else "int64"


def total(pull: Pull, dtype: DType, ranges: Sequence[Expr], term: Callable[[Index], Expr]) -> Expr:
    """The sum of terms over nested loops, in the wide type."""
    wide = wide_type(dtype)
    return bind(pull.fold(ranges, tirx.const(0, wide), lambda sum, index: sum + _as(wide, term(index))))


def _as(dtype: str, value: Expr) -> Expr:
    return value if value.ty.dtype == dtype else tirx.Cast(dtype, value)


def narrowed(pull: Pull, value: Expr, dtype: DType) -> Expr:
    return _as(pull.type(dtype), value)


def _fold(pull: Pull, node: Node, index: Index, start: Expr, step: Callable[[Expr, Expr], Expr]) -> Expr:
    """Fold the operand's elements that belong to one element of a reduction."""
    axes, keepdims, shape = node.attrs["axes"], node.attrs["keepdims"], operand_shape(node)

    def place(inner: Index) -> Index:
        reduced = dict(zip(sorted(axes), inner, strict=True))
        kept = iter([part for axis, part in enumerate(index) if axis not in axes] if keepdims else index)
        return tuple(reduced[axis] if axis in reduced else next(kept) for axis in range(len(shape)))

    ranges = [pull.size(shape[axis]) for axis in sorted(axes)]
    if not ranges:
        return bind(step(start, pull.operand(node, 0, index)))
    return bind(pull.fold(ranges, start, lambda value, inner: step(value, pull.operand(node, 0, place(inner)))))


@element("reduce.sum", costly=True)
def sum_(pull: Pull, node: Node, index: Index) -> Expr:
    wide = wide_type(node.result.dtype)
    value = _fold(pull, node, index, tirx.const(0, wide), lambda a, x: a + _as(wide, x))
    return narrowed(pull, value, node.result.dtype)


@element("reduce.mean", costly=True)
def mean(pull: Pull, node: Node, index: Index) -> Expr:
    value = _fold(pull, node, index, tirx.const(0, "float64"), lambda a, x: a + _as("float64", x))
    count = product([operand_shape(node)[axis] for axis in node.attrs["axes"]])
    return narrowed(pull, value / tirx.Cast("float64", pull.size(count)), node.result.dtype)


@element("reduce.prod", costly=True)
def prod(pull: Pull, node: Node, index: Index) -> Expr:
    wide = wide_type(node.result.dtype)
    value = _fold(pull, node, index, tirx.const(1, wide), lambda a, x: a * _as(wide, x))
    return narrowed(pull, value, node.result.dtype)


def lowest(dtype: DType) -> float:
    return -math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).min)


def highest(dtype: DType) -> float:
    return math.inf if dtype.is_float else int(np.iinfo(dtype.numpy).max)


def larger(a: Expr, x: Expr) -> Expr:
    """max(a, x); a NaN wins."""
    return tirx.Select(tirx.Or(x > a, _is_nan(x)), x, a)


def smaller(a: Expr, x: Expr) -> Expr:
    """min(a, x); a NaN wins."""
    return tirx.Select(tirx.Or(x < a, _is_nan(x)), x, a)


def _is_nan(x: Expr) -> Expr:
    return tirx.isnan(x) if x.ty.dtype.startswith("float") else tirx.const(False, "bool")


@element("reduce.max", costly=True)
def max_(pull: Pull, node: Node, index: Index) -> Expr:
    dtype = node.result.dtype
    return _fold(pull, node, index, tirx.const(lowest(dtype), pull.type(dtype)), larger)


@element("reduce.min", costly=True)
def min_(pull: Pull, node: Node, index: Index) -> Expr:
    dtype = node.result.dtype
    return _fold(pull, node, index, tirx.const(highest(dtype), pull.type(dtype)), smaller)


@element("reduce.any", costly=True)
def any_(pull: Pull, node: Node, index: Index) -> Expr:
    return _fold(pull, node, index, tirx.const(False, "bool"), tirx.Or)


@element("reduce.all", costly=True)
def all_(pull: Pull, node: Node, index: Index) -> Expr:
    return _fold(pull, node, index, tirx.const(True, "bool"), tirx.And)


def _search(pull: Pull, node: Node, index: Index, better: Callable[[Expr, Expr], Expr]) -> Expr:
    """The place of the first element that no other is better than."""
    x, axis = node.args[0], node.attrs["axis"]
    assert x is not None
    outer = index if node.attrs["keepdims"] else (*index[:axis], index_constant(0), *index[axis:])
    best = Cell(tirx.const(0, pull.type(x.dtype)))
    place = Cell(index_constant(-1))
    with pull.loops(pull.size(x.shape[axis])) as (i,):
        value = pull.element(x, replaced(outer, axis, i))
        won = tirx.Or(better(value, best.get()), tirx.And(_is_nan(value), tirx.Not(_is_nan(best.get()))))
        with pull.when(tirx.Or(place.get() < index_constant(0), won)):
            best.set(value)
            place.set(i)
    return place.get()


@element("reduce.argmax", costly=True)
def argmax(pull: Pull, node: Node, index: Index) -> Expr:
    return _search(pull, node, index, lambda value, best: value > best)


@element("reduce.argmin", costly=True)
def argmin(pull: Pull, node: Node, index: Index) -> Expr:
    return _search(pull, node, index, lambda value, best: value < best)


@line("reduce.cumsum")
def cumsum(pull: Pull, node: Node) -> Line:
    axis, dtype = node.attrs["axis"], node.result.dtype
    wide = wide_type(dtype)

    def prepare(index: Index) -> Callable[[Index], tuple[Expr, ...]]:
        sum = Cell(tirx.const(0, wide))

        def step(place: Index) -> tuple[Expr, ...]:
            sum.set(sum.get() + _as(wide, pull.operand(node, 0, place)))
            return (narrowed(pull, sum.get(), dtype),)

        return step

    return Line.along(node.result.shape, axis, prepare)
