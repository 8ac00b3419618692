"""The measure that `nomul verify` and the benchmarks print, and the turns of the timer."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest

from nomul.compare import difference
from nomul.timing import BLOCK, measure


def test_relative_to_the_largest_output() -> None:
    found = difference(np.array([1.0, -10.0]), np.array([1.5, -10.0]))
    assert (found.absolute, found.relative) == (0.5, 0.05)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([nan, 1.0], [nan, 1.0], 0.0),
        ([nan, 1.0], [0.0, 1.0], inf),
        ([inf, 1.0], [inf, 1.0], 0.0),
        ([inf, 1.0], [-inf, 1.0], inf),
        ([1.0], [1.0, 1.0], inf),
        ([], [], 0.0),
        ([0.0], [0.25], 0.25),
    ],
)
def test_special_values(left: list[float], right: list[float], expected: float) -> None:
    assert difference(np.array(left), np.array(right)).relative == expected


def test_integers_and_bools() -> None:
    assert difference(np.array([True, False]), np.array([True, True])).absolute == 1.0
    assert difference(np.array([2**40]), np.array([2**40 + 1])).absolute == 1.0


def test_jobs_run_in_turns_and_equally_often() -> None:
    log: list[str] = []
    times = measure({"a": lambda: log.append("a"), "b": lambda: log.append("b")}, seconds=0.0, least=2 * BLOCK)
    turn = ["a"] * (BLOCK + 1) + ["b"] * (BLOCK + 1)
    assert log == ["a", "b", *turn, *turn]
    assert times["a"].runs == times["b"].runs == 2 * BLOCK
    assert 0 <= times["a"].low <= times["a"].p50 <= times["a"].p90
