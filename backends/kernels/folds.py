"""What reductions carry along: sums, products, extrema, the place of an extremum. Elements or vectors of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.emit import compute_type, lanes_of
from nomul.backends.expressions import minus
from nomul.backends.mathlib import bind, constant
from nomul.ir.graph import Node
from nomul.ir.types import DType

Expr = Any
State = list[Expr]


class Fold(ABC):
    """types: TIR's element types of what is carried, at most `bytes` wide.  A state holds one value of each."""

    types: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return max(int(np.dtype(name).itemsize) for name in self.types)

    @abstractmethod
    def start(self) -> State:
        """Scalars with which nothing has been folded in."""

    @abstractmethod
    def lift(self, element: Expr, place: Expr) -> State:
        """The state of one element; place: its index along the reduced axis."""

    @abstractmethod
    def join(self, state: State, other: State) -> State:
        """Both together."""

    def add(self, state: State, later: State) -> State:
        """Both together, where all elements of `later` come behind those of `state`."""
        return self.join(state, later)

    @abstractmethod
    def finish(self, state: State, count: Expr) -> Expr:
        """The result, of the type in which the node's results are computed. count: of elements."""


class Plain(Fold):
    """One value, combined by a function. wide: the type that is carried."""

    def __init__(self, node: Node, wide: str, start: float | int, combine: Callable[[Expr, Expr], Expr]) -> None:
        self.types = (wide,)
        self._node, self._start, self._combine = node, start, combine

    def start(self) -> State:
        return [tirx.const(self._start, self.types[0])]

    def lift(self, element: Expr, place: Expr) -> State:
        return [_cast(element, self.types[0])]

    def join(self, state: State, other: State) -> State:
        return [self._combine(state[0], other[0])]

    def finish(self, state: State, count: Expr) -> Expr:
        dtype = self._node.result.dtype
        if dtype is DType.BOOL:
            return tirx.NE(state[0], constant(state[0], 0))
        value = _cast(state[0], compute_type(dtype))
        if self._node.op != "reduce.mean":
            return value
        divisor = bind(tirx.Cast(compute_type(dtype), count))
        return bind(value / _spread(divisor, lanes_of(value)))


class Compensated(Plain):
    """A float sum and what its roundings lost (Neumaier 1974): over an image, one chain would lose four digits."""

    def __init__(self, node: Node, wide: str) -> None:
        super().__init__(node, wide, 0.0, lambda a, b: a + b)
        self.types = (wide, wide)

    def start(self) -> State:
        return [tirx.const(0.0, name) for name in self.types]

    def lift(self, element: Expr, place: Expr) -> State:
        return [element, constant(element, 0.0)]

    def join(self, state: State, other: State) -> State:
        """Knuth's two-sum; `minus` keeps TVM's algebra from simplifying it away."""
        (total, lost), (new, more) = state, other
        both = bind(total + new)
        share = bind(minus(both, total))
        rest = bind(minus(total, bind(minus(both, share)))) + bind(minus(new, share))
        return [both, bind(lost + more) + bind(rest)]

    def finish(self, state: State, count: Expr) -> Expr:
        total, lost = bind(state[0]), bind(state[1])
        whole = bind(tirx.Select(tirx.isnan(lost), total, total + lost))  # infinities have lost a NaN
        return super().finish([whole], count)


class Extremum(Fold):
    """The value and the place of the first largest (or smallest) element; the first NaN counts as both."""

    def __init__(self, node: Node, dtype: DType, largest: bool) -> None:
        self._value_type = compute_type(dtype)
        self._first = _extreme(dtype, not largest)
        self._largest = largest
        self.types = (self._value_type, "int32")

    def start(self) -> State:
        return [tirx.const(self._first, self._value_type), tirx.const(0, "int32")]

    def lift(self, element: Expr, place: Expr) -> State:
        return [element, place]

    def join(self, state: State, other: State) -> State:
        (value, place), (new, at) = state, other
        same = tirx.EQ(new, value)
        if self._value_type.startswith("float"):
            same = tirx.Or(same, tirx.And(tirx.isnan(new), tirx.isnan(value)))
        return self._chosen(tirx.Or(self._better(new, value), tirx.And(same, at < place)), state, other)

    def add(self, state: State, later: State) -> State:
        return self._chosen(self._better(later[0], state[0]), state, later)

    def _better(self, new: Expr, value: Expr) -> Expr:
        better = new > value if self._largest else new < value
        if not self._value_type.startswith("float"):
            return better
        return tirx.Or(better, tirx.And(tirx.isnan(new), tirx.Not(tirx.isnan(value))))

    @staticmethod
    def _chosen(other_wins: Expr, state: State, other: State) -> State:
        return [tirx.Select(other_wins, new, old) for new, old in zip(other, state, strict=True)]

    def finish(self, state: State, count: Expr) -> Expr:
        return _cast(state[1], "int64")


def fold_of(node: Node) -> Fold:
    """The fold of a reduction node. Raises KeyError for another op."""
    operand = node.args[0]
    assert operand is not None
    return _FOLDS[node.op](node, operand.dtype)


def _sum(node: Node, dtype: DType) -> Fold:
    if dtype.is_float:
        return Compensated(node, compute_type(dtype))
    return Plain(node, _modular(dtype), 0, lambda a, b: a + b)


def _prod(node: Node, dtype: DType) -> Fold:
    return Plain(node, _modular(dtype), 1, lambda a, b: a * b)


def _modular(dtype: DType) -> str:
    """Integers are summed in 64 bits, whose overflow leaves the lower ones right."""
    return "int64" if dtype.is_integer else compute_type(dtype)


def _max(node: Node, dtype: DType) -> Fold:
    return Plain(node, compute_type(dtype), _extreme(dtype, False), larger)


def _min(node: Node, dtype: DType) -> Fold:
    return Plain(node, compute_type(dtype), _extreme(dtype, True), smaller)


def larger(a: Expr, b: Expr) -> Expr:
    """The larger of two elements; NaN where one is."""
    return _keeping_nan(b, tirx.Select(b > a, b, a))


def smaller(a: Expr, b: Expr) -> Expr:
    """The smaller of two elements; NaN where one is."""
    return _keeping_nan(b, tirx.Select(b < a, b, a))


def _keeping_nan(b: Expr, chosen: Expr) -> Expr:
    return tirx.Select(tirx.isnan(b), b, chosen) if b.ty.dtype.startswith("float") else chosen


def _any(node: Node, dtype: DType) -> Fold:
    return Plain(node, "int32", 0, tirx.bitwise_or)


def _all(node: Node, dtype: DType) -> Fold:
    return Plain(node, "int32", 1, tirx.bitwise_and)


def _argmax(node: Node, dtype: DType) -> Fold:
    return Extremum(node, dtype, True)


def _argmin(node: Node, dtype: DType) -> Fold:
    return Extremum(node, dtype, False)


def _extreme(dtype: DType, highest: bool) -> float | int:
    """The largest or smallest value of a type."""
    if dtype.is_float:
        return float("inf") if highest else float("-inf")
    info = np.iinfo(dtype.numpy)
    return int(info.max if highest else info.min)


def _cast(value: Expr, name: str) -> Expr:
    lanes = lanes_of(value)
    goal = name if lanes == 1 else f"{name}x{lanes}"
    return value if value.ty.dtype == goal else tirx.Cast(goal, value)


def _spread(value: Expr, lanes: int) -> Expr:
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


_FOLDS: dict[str, Callable[[Node, DType], Fold]] = {
    "reduce.sum": _sum,
    "reduce.mean": _sum,
    "reduce.prod": _prod,
    "reduce.max": _max,
    "reduce.min": _min,
    "reduce.any": _any,
    "reduce.all": _all,
    "reduce.argmax": _argmax,
    "reduce.argmin": _argmin,
}
REDUCTIONS = tuple(_FOLDS)
