from __future__ import annotations

from typing import Any

import pytest
from pass_graphs import Graph

from nomul.ir.graph import Constant, Value
from nomul.passes.matcher import Match, Matcher, Pattern, compile_pattern


def matches(pattern: Any, value: Value) -> list[Match]:
    assert value.producer is not None
    return list(Matcher(compile_pattern(pattern)).matches(value.producer))


def failure(pattern: Any, value: Value) -> str:
    matcher = Matcher(compile_pattern(pattern))
    assert value.producer is not None
    assert not list(matcher.matches(value.producer))
    return matcher.failure.reason


def test_a_variable_used_twice_must_be_one_value() -> None:
    def square(g: Any, x: Pattern) -> Pattern:
        return g.ew.mul(x, x)

    g = Graph()
    x, y = g.input("x", 4), g.input("y", 4)
    assert matches(square, g.b.ew.mul(x, x))[0].x is x
    assert "needs %x again, found %y" in failure(square, g.b.ew.mul(x, y))


def test_equal_literals_are_one_value() -> None:
    def twice(g: Any, x: Pattern, c: Constant) -> Pattern:
        return g.ew.add(g.ew.mul(x, c), c)

    g = Graph()
    x = g.input("x", 4)
    assert matches(twice, g.b.ew.add(g.b.ew.mul(x, 3.0), 3.0))
    assert not matches(twice, g.b.ew.add(g.b.ew.mul(x, 3.0), 4.0))


def test_commutative_ops_match_in_both_orders_and_others_do_not() -> None:
    def add(g: Any, x: Pattern) -> Pattern:
        return g.ew.add(g.ew.exp(x), 1.0)

    def sub(g: Any, x: Pattern) -> Pattern:
        return g.ew.sub(g.ew.exp(x), 1.0)

    g = Graph()
    e = g.b.ew.exp(g.input("x", 4))
    assert matches(add, g.b.ew.add(1.0, e))
    assert matches(add, g.b.ew.add(e, 1.0))
    assert not matches(sub, g.b.ew.sub(1.0, e))


def test_a_later_alternative_is_tried_when_the_rest_fails() -> None:
    def pattern(g: Any, x: Pattern, y: Pattern) -> Pattern:
        return g.ew.mul(g.any_of(x, g.ew.neg(x)), g.ew.exp(x))

    g = Graph()
    x = g.input("x", 4)
    (match,) = matches(pattern, g.b.ew.mul(g.b.ew.neg(x), g.b.ew.exp(x)))
    assert match.x is x
    assert match.y is None


def test_numbers_match_closely() -> None:
    def half(g: Any, x: Pattern) -> Pattern:
        return g.ew.mul(x, 0.7071067811865476)

    g = Graph()
    x = g.input("x", 4)
    assert matches(half, g.b.ew.mul(x, 0.70711))
    assert "needs the number 0.707107, found 0.7" in failure(half, g.b.ew.mul(x, 0.7))


def test_attributes_by_value_from_the_end_by_predicate_and_captured() -> None:
    def pattern(g: Any, x: Pattern) -> Pattern:
        return g.reduce.sum(g.nn.softmax(x, axis=-1), axes=g.attr("axes"), keepdims=lambda keep: not keep)

    g = Graph()
    x = g.input("x", "S", 4)
    (match,) = matches(pattern, g.b.reduce.sum(g.b.nn.softmax(x, axis=1), axes=(0,)))
    assert match.axes == (0,)
    assert "softmax has axis=0" in failure(pattern, g.b.reduce.sum(g.b.nn.softmax(x, axis=0), axes=(0,)))
    assert "keepdims" in failure(pattern, g.b.reduce.sum(g.b.nn.softmax(x, axis=1), axes=(0,), keepdims=True))


def test_annotations_narrow_variables() -> None:
    def scaled(g: Any, x: Pattern, c: Constant) -> Pattern:
        return g.ew.mul(g.ew.exp(x), c)

    g = Graph()
    e, w = g.b.ew.exp(g.input("x", 4)), g.weight("w", 4)
    assert matches(scaled, g.b.ew.mul(e, 2.0))
    assert "'c' must be a constant, found @w" in failure(scaled, g.b.ew.mul(e, w))


def test_an_optional_operand_may_be_absent() -> None:
    def some(g: Any, x: Pattern, w: Pattern, b: Pattern | None) -> Pattern:
        return g.nn.linear(x, w, b)

    def all_given(g: Any, x: Pattern, w: Pattern, b: Pattern) -> Pattern:
        return g.nn.linear(x, w, b)

    g = Graph()
    y = g.b.nn.linear(g.input("x", 4), g.weight("w", 3, 4))
    assert matches(some, y)[0].b is None
    assert failure(all_given, y) == "the operand 'b' is absent"


def test_an_unknown_name_of_a_match_is_an_error() -> None:
    def pattern(g: Any, x: Pattern) -> Pattern:
        return g.ew.exp(x)

    g = Graph()
    (match,) = matches(pattern, g.b.ew.exp(g.input("x", 4)))
    with pytest.raises(AttributeError, match="binds no 'y'"):
        _ = match.y
