"""Symbolic sizes against plain integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.dim import Dim, ceil_div, product

NAMES = ("A", "B", "S")
RANGES = {"A": (0, 7), "B": (2, 5), "S": (-3, inf)}
Number = Callable[[dict[str, int]], int]


@st.composite
def expressions(draw: Callable, depth: int = 3) -> tuple[Dim, Number]:
    """A size, and the same expression computed with plain integers."""
    if depth == 0 or draw(st.booleans()):
        if draw(st.booleans()):
            name = draw(st.sampled_from(NAMES))
            return Dim.of(name), lambda values: values[name]
        number = draw(st.integers(-9, 9))
        return Dim.of(number), lambda values: number
    left, plain_left = draw(expressions(depth - 1))
    kind = draw(st.sampled_from(["+", "-", "*", "//", "%", "neg"]))
    if kind in ("//", "%"):
        divisor = draw(st.integers(1, 8))
        if kind == "//":
            return left // divisor, lambda values: plain_left(values) // divisor
        return left % divisor, lambda values: plain_left(values) % divisor
    if kind == "neg":
        return -left, lambda values: -plain_left(values)
    right, plain_right = draw(expressions(depth - 1))
    if kind == "+":
        return left + right, lambda values: plain_left(values) + plain_right(values)
    if kind == "-":
        return left - right, lambda values: plain_left(values) - plain_right(values)
    return left * right, lambda values: plain_left(values) * plain_right(values)


VALUES = st.fixed_dictionaries(
    {name: st.integers(low, high if high < inf else 50) for name, (low, high) in RANGES.items()}
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(expressions(), VALUES)
def test_arithmetic_is_that_of_integers(pair: tuple[Dim, Number], values: dict[str, int]) -> None:
    dim, plain = pair
    assert dim.evaluate(values) == plain(values)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(expressions(), VALUES)
def test_bounds_enclose(pair: tuple[Dim, Number], values: dict[str, int]) -> None:
    low, high = pair[0].bounds(RANGES)
    assert low <= pair[1](values) <= high


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(2), expressions(2), VALUES)
def test_substitution(outer: tuple[Dim, Number], inner: tuple[Dim, Number], values: dict[str, int]) -> None:
    dim = outer[0].substitute({"A": inner[0], "B": 3})
    assert dim.evaluate(values) == outer[1](values | {"A": inner[1](values), "B": 3})
    assert "B" not in dim.names() or "B" in inner[0].names()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(2), expressions(2))
def test_equal_forms_are_equal(left: tuple[Dim, Number], right: tuple[Dim, Number]) -> None:
    a, b = left[0], right[0]
    assert a + b == b + a and hash(a + b) == hash(b + a)
    assert a * b == b * a
    assert (a + b) - b == a
    assert (a - a).value == 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(2), expressions(2))
def test_exact_division_undoes_a_product(left: tuple[Dim, Number], right: tuple[Dim, Number]) -> None:
    a, b = left[0], right[0]
    if not b.terms:
        with pytest.raises(ValueError, match="not a multiple"):
            a.divide_exactly(b)
        return
    assert (a * b).divide_exactly(b) == a


def test_canonical_forms() -> None:
    a, s = Dim.of("A"), Dim.of("S")
    assert (4 * s + 2) // 2 == 2 * s + 1
    assert (4 * s + 3) // 2 == 2 * s + 1
    assert (2 * s + 5) // 4 == (s + 2) // 2
    assert ((s + 1) // 2 + 3) // 2 == (s + 7) // 4
    assert (a * s) // s == a
    assert s % 1 == 0
    assert s == "S" and Dim.of(3) == 3 and Dim.of(3) != 4
    assert ceil_div(s, 8) == (s + 7) // 8
    assert product([a, s, Dim.of(2)]) == 2 * a * s
    assert product(()) == 1
    assert sorted([s, a, Dim.of(1)]) == [Dim.of(1), a, s]


@pytest.mark.parametrize(
    ("dim", "text"),
    [
        (Dim.of(0), "0"),
        (Dim.of(-3), "-3"),
        (2 * Dim.of("S") + 1, "2*S + 1"),
        (Dim.of("B") * Dim.of("A") - 4, "A*B - 4"),
        ((Dim.of("S") + 1) // 2, "(S + 1)//2"),
        (2 * ((Dim.of("S") + 1) // 2), "2*((S + 1)//2)"),
        (-((Dim.of("S") + 1) // 2), "-((S + 1)//2)"),
        (-Dim.of("S"), "-S"),
    ],
)
def test_text(dim: Dim, text: str) -> None:
    assert str(dim) == text
    assert repr(dim) == f"Dim({text})"


def test_queries() -> None:
    dim = 2 * Dim.of("S") + (Dim.of("A") + 1) // 2
    assert dim.names() == {"S", "A"}
    assert dim.value is None and not dim.is_constant
    assert Dim.of(7).value == 7 and int(Dim.of(7)) == 7
    with pytest.raises(TypeError, match="not a constant"):
        int(dim)
    with pytest.raises(KeyError):
        dim.evaluate({"S": 1})
    with pytest.raises(ValueError, match="cannot divide"):
        dim // 0
    with pytest.raises(ValueError, match="not a multiple"):
        dim // Dim.of("S")
    assert Dim.of("S").bounds({}) == (0, inf)
    assert (Dim.of("S") - Dim.of("A")).bounds({"S": (1, 4), "A": (2, 3)}) == (-2, 2)
