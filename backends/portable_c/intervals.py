"""Arithmetic on integer intervals: what the result of an operation can be, given what its operands can be."""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """All integers from low to high, both inclusive."""

    low: int
    high: int

    def __contains__(self, other: object) -> bool:
        assert isinstance(other, Interval)
        return self.low <= other.low and other.high <= self.high

    def union(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))


INT32 = Interval(-(2**31), 2**31 - 1)
INT64 = Interval(-(2**63), 2**63 - 1)
TRUTH = Interval(0, 1)


def full(dtype: str) -> Interval:
    """Everything that an integer type (`int8`, `uint16`, `bool`, ...) can hold."""
    if dtype == "bool":
        return TRUTH
    bits = int(dtype.lstrip("uint"))
    return Interval(0, 2**bits - 1) if dtype.startswith("u") else Interval(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def exactly(value: int) -> Interval:
    return Interval(value, value)


def add(x: Interval, y: Interval) -> Interval:
    return Interval(x.low + y.low, x.high + y.high)


def subtract(x: Interval, y: Interval) -> Interval:
    return Interval(x.low - y.high, x.high - y.low)


def multiply(x: Interval, y: Interval) -> Interval:
    corners = [a * b for a in x for b in y]
    return Interval(min(corners), max(corners))


def truncating_divide(x: Interval, y: Interval) -> Interval:
    """Division that rounds towards zero, by anything in y but zero."""
    divisors = [d for d in (y.low, y.high, -1, 1) if d and y.low <= d <= y.high]
    if not divisors:
        return x  # division by zero only: it has no result
    corners = [int(abs(a) // abs(d)) * (1 if (a < 0) == (d < 0) else -1) for a in x for d in divisors]
    if x.low <= 0 <= x.high:
        corners.append(0)
    return Interval(min(corners), max(corners))


def truncating_remainder(x: Interval, y: Interval) -> Interval:
    """The remainder of `truncating_divide`: it has the sign of the dividend."""
    size = max(abs(y.low), abs(y.high), 1) - 1
    return Interval(max(-size, min(x.low, 0)), min(size, max(x.high, 0)))


def floor_divide(x: Interval, y: Interval) -> Interval:
    rounded = truncating_divide(x, y)
    return Interval(rounded.low - 1, rounded.high)


def floor_remainder(x: Interval, y: Interval) -> Interval:
    """It has the sign of the divisor."""
    return Interval(min(y.low + 1, 0), max(y.high - 1, 0))


def minimum(x: Interval, y: Interval) -> Interval:
    return Interval(min(x.low, y.low), min(x.high, y.high))


def maximum(x: Interval, y: Interval) -> Interval:
    return Interval(max(x.low, y.low), max(x.high, y.high))


def shift_right(x: Interval, y: Interval) -> Interval:
    """Arithmetic shift by 0..63 places."""
    corners = [a >> by for a in x for by in (max(y.low, 0), min(max(y.high, 0), 63))]
    return Interval(min(corners), max(corners))


def bitwise_and(x: Interval, y: Interval) -> Interval:
    """Within any operand that is never negative."""
    limits = [operand.high for operand in (x, y) if operand.low >= 0]
    return Interval(0, min(limits)) if limits else Interval(min(x.low, y.low, -(2**63)), max(x.high, y.high))


def decide(operator: str, x: Interval, y: Interval) -> bool | None:
    """Whether `x operator y` always holds (True), never (False), or it depends (None)."""
    if operator in (">", ">="):
        return decide({">": "<", ">=": "<="}[operator], y, x)
    if operator == "<":
        return True if x.high < y.low else (False if x.low >= y.high else None)
    if operator == "<=":
        return True if x.high <= y.low else (False if x.low > y.high else None)
    apart = x.high < y.low or y.high < x.low
    same = x.low == x.high == y.low == y.high
    verdict = False if apart else (True if same else None)
    return verdict if operator == "==" or verdict is None else not verdict
