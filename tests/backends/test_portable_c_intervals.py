"""Interval arithmetic holds every result, and decides comparisons only where it may."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.backends.portable_c import intervals
from nomul.backends.portable_c.intervals import Interval, full

ENDS = st.one_of(st.integers(-20, 20), st.integers(-(2**63), 2**63 - 1))


@st.composite
def members(draw: st.DrawFn) -> tuple[Interval, int]:
    """An interval and one of its members."""
    low, high = sorted((draw(ENDS), draw(ENDS)))
    return Interval(low, high), draw(st.integers(low, high))


def truncated(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


OPERATIONS: dict[str, tuple[Callable[[Interval, Interval], Interval], Callable[[int, int], int]]] = {
    "add": (intervals.add, lambda a, b: a + b),
    "subtract": (intervals.subtract, lambda a, b: a - b),
    "multiply": (intervals.multiply, lambda a, b: a * b),
    "truncating_divide": (intervals.truncating_divide, truncated),
    "truncating_remainder": (intervals.truncating_remainder, lambda a, b: a - b * truncated(a, b)),
    "floor_divide": (intervals.floor_divide, lambda a, b: a // b),
    "floor_remainder": (intervals.floor_remainder, lambda a, b: a % b),
    "minimum": (intervals.minimum, min),
    "maximum": (intervals.maximum, max),
    "bitwise_and": (intervals.bitwise_and, lambda a, b: a & b),
}


@pytest.mark.parametrize("name", OPERATIONS)
@given(members(), members())
def test_results_lie_inside(name: str, x: tuple[Interval, int], y: tuple[Interval, int]) -> None:
    of_intervals, of_numbers = OPERATIONS[name]
    if y[1] == 0 and ("divide" in name or "remainder" in name):
        return
    result = of_numbers(x[1], y[1])
    assert Interval(result, result) in of_intervals(x[0], y[0])


@given(members(), st.integers(0, 63))
def test_shifts_lie_inside(x: tuple[Interval, int], by: int) -> None:
    result = x[1] >> by
    assert Interval(result, result) in intervals.shift_right(x[0], Interval(0, by))


@given(members(), members(), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]))
def test_decided_comparisons_are_right(x: tuple[Interval, int], y: tuple[Interval, int], operator: str) -> None:
    verdict = intervals.decide(operator, x[0], y[0])
    truth = {"<": x[1] < y[1], "<=": x[1] <= y[1], ">": x[1] > y[1], ">=": x[1] >= y[1], "==": x[1] == y[1]}
    assert verdict is None or verdict is truth.get(operator, x[1] != y[1])


def test_comparisons_are_decided() -> None:
    assert intervals.decide("<", Interval(0, 3), Interval(4, 9)) is True
    assert intervals.decide(">=", Interval(0, 3), Interval(4, 9)) is False
    assert intervals.decide("==", Interval(5, 5), Interval(5, 5)) is True
    assert intervals.decide("<", Interval(0, 4), Interval(4, 9)) is None


def test_types_have_their_ranges() -> None:
    assert [full(name) for name in ("bool", "uint8", "int16")] == [(0, 1), (0, 255), (-(2**15), 2**15 - 1)]
