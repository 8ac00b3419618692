"""Each canonical form: one graph that it changes, numerics checked by the runner, and near misses that must stay."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Graph, constant, simplified

from nomul.ir.dim import Dim
from nomul.ir.types import DType

S, ONE = Dim.of("S"), Dim.of(1)


# -- arithmetic ----------------------------------------------------------------------------------------------------
def test_literals_go_right_and_subtractions_become_additions() -> None:
    out = simplified(lambda g: g.b.ew.add(2.0, g.b.ew.sub(g.input("x", "S"), 0.5)))
    assert out.ops == ["ew.add"]
    assert constant(out.result) == 1.5


def test_a_subtraction_from_a_literal_stays() -> None:
    assert simplified(lambda g: g.b.ew.sub(1.0, g.input("x", "S"))).ops == ["ew.sub"]


def test_division_by_a_literal_is_a_multiplication_but_not_by_zero_or_of_integers() -> None:
    out = simplified(lambda g: g.b.ew.div(g.input("x", "S"), 8.0))
    assert out.ops == ["ew.mul"]
    assert constant(out.result) == 0.125
    assert simplified(lambda g: g.b.ew.div(g.input("x", "S"), 0.0)).ops == ["ew.div"]
    assert simplified(lambda g: g.b.ew.div(g.input("x", "S", dtype="i64"), 3)).ops == ["ew.div"]


def test_division_by_a_weight_multiplies_by_its_inverse() -> None:
    out = simplified(lambda g: g.b.ew.div(g.input("x", "S", 2), g.array("w", np.float32([2, 4]))))
    assert out.ops == ["ew.mul"]
    assert list(out.module.weights["w"].array()) == [0.5, 0.25]


@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.ew.add(x, 0.0),
        lambda b, x: b.ew.mul(x, 1.0),
        lambda b, x: b.ew.div(x, 1.0),
        lambda b, x: b.ew.pow(x, 1.0),
        lambda b, x: b.ew.neg(b.ew.neg(x)),
        lambda b, x: b.ew.clip(x),
        lambda b, x: b.ew.where(b.ew.gt(x, 0.0), x, x),
        lambda b, x: b.ew.cast(x, dtype=DType.F32),
        lambda b, x: b.view.reshape(b.view.reshape(x, shape=(S * 4,)), shape=(S, Dim.of(4))),
        lambda b, x: b.view.transpose(b.view.transpose(x, perm=(1, 0)), perm=(1, 0)),
        lambda b, x: b.view.expand(x, shape=(S, Dim.of(4))),
        lambda b, x: b.view.slice(x, axis=0, start=0, stop=S),
        lambda b, x: b.view.concat(x, axis=0),
        lambda b, x: b.view.pad(x, before=(0, 0), after=(0, 0)),
        lambda b, x: b.view.concat(b.view.slice(x, axis=1, stop=1), b.view.slice(x, axis=1, start=1, stop=4), axis=1),
    ],
)
def test_no_ops_go(make) -> None:  # type: ignore[no-untyped-def]
    out = simplified(lambda g: g.b.ew.exp(make(g.b, g.input("x", "S", 4))))
    assert out.ops == ["ew.exp"]


def test_a_neutral_operand_that_broadcasts_stays() -> None:
    out = simplified(lambda g: g.b.ew.add(g.input("x", 1), g.array("zeros", np.zeros(3, np.float32))))
    assert out.ops == ["ew.add"]


@pytest.mark.parametrize(
    ("power", "ops"),
    [
        (2.0, ["ew.mul"]),
        (3.0, ["ew.mul", "ew.mul"]),
        (0.5, ["ew.sqrt"]),
        (-0.5, ["ew.rsqrt"]),
        (-1.0, ["ew.reciprocal"]),
        (1.5, ["ew.pow"]),
    ],
)
def test_powers(power: float, ops: list[str]) -> None:
    assert simplified(lambda g: g.b.ew.pow(g.b.ew.abs(g.input("x", "S")), power)).ops == ["ew.abs", *ops]


def test_reciprocal_of_a_root() -> None:
    assert simplified(lambda g: g.b.ew.div(1.0, g.b.ew.sqrt(g.b.ew.abs(g.input("x", "S"))))).ops == [
        "ew.abs",
        "ew.rsqrt",
    ]

    def broadcast(g: Graph):  # type: ignore[no-untyped-def]
        return g.b.ew.div(g.input("x", "S", 4), g.b.ew.sqrt(g.b.ew.abs(g.input("y", "S", 1))))

    assert simplified(broadcast).ops == ["ew.abs", "ew.rsqrt", "ew.mul"]


def test_chains_of_literals_merge_only_where_the_inner_result_is_not_used() -> None:
    assert simplified(lambda g: g.b.ew.mul(g.b.ew.mul(g.input("x", "S"), 2.0), 3.0)).ops == ["ew.mul"]

    def shared(g: Graph):  # type: ignore[no-untyped-def]
        inner = g.b.ew.mul(g.input("x", "S"), 2.0)
        return g.b.ew.mul(inner, 3.0), inner

    assert simplified(shared).ops == ["ew.mul", "ew.mul"]


def test_uniform_weights_are_literals() -> None:
    out = simplified(lambda g: g.b.ew.mul(g.input("x", "S", 4), g.array("w", np.full((1, 4), 3, np.float32))))
    assert constant(out.result) == 3
    assert not out.module.weights


def test_leading_unit_axes_of_weights_go() -> None:
    out = simplified(lambda g: g.b.ew.mul(g.input("x", "B", "S", 4), g.weight("w", 1, 1, 4)))
    assert out.module.weights["w"].shape == (4,)


# -- limits --------------------------------------------------------------------------------------------------------
def test_limits_become_clips_and_relu() -> None:
    out = simplified(lambda g: g.b.ew.min(g.b.ew.max(g.input("x", "S"), -1.0), 6.0))
    assert out.ops == ["ew.clip"]
    assert (out.result.attrs["low"], out.result.attrs["high"]) == (-1, 6)
    assert simplified(lambda g: g.b.ew.max(g.input("x", "S"), 0.0)).ops == ["ew.relu"]
    out = simplified(lambda g: g.b.ew.clip(g.b.ew.relu(g.input("x", "S")), high=6.0))
    assert (out.ops, out.result.attrs["low"]) == (["ew.clip"], 0)


def test_clips_without_overlap_stay() -> None:
    out = simplified(lambda g: g.b.ew.clip(g.b.ew.clip(g.input("x", "S"), low=-1.0, high=1.0), low=2.0, high=3.0))
    assert out.ops == ["ew.clip", "ew.clip"]


def test_not_of_an_integer_comparison_is_the_opposite_and_of_a_float_one_stays() -> None:
    out = simplified(lambda g: g.b.ew.not_(g.b.ew.lt(g.input("x", "S", dtype="i64"), 2)))
    assert out.ops == ["ew.ge"]
    assert simplified(lambda g: g.b.ew.not_(g.b.ew.lt(g.input("x", "S"), 2.0))).ops == ["ew.lt", "ew.not"]


def test_a_bool_compared_with_a_literal() -> None:
    def equal_false(g: Graph):  # type: ignore[no-untyped-def]
        return g.b.ew.eq(g.input("m", "S", dtype="bool"), False)

    assert simplified(equal_false).ops == ["ew.not"]
    out = simplified(lambda g: g.b.ew.not_(g.b.ew.ne(g.b.ew.cast(g.input("m", "S", dtype="bool"), dtype=DType.I64), 0)))
    assert out.ops == ["ew.not"]


def test_where_with_a_negated_condition_swaps() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        return g.b.ew.where(g.b.ew.not_(g.input("m", "S", dtype="bool")), g.input("x", "S"), 1.0)

    out = simplified(make)
    assert out.ops == ["ew.where"]
    assert constant(out.result) == 1


def test_casts_over_a_wider_type_merge_and_over_a_narrower_stay() -> None:
    def over(dtype: DType):  # type: ignore[no-untyped-def]
        return lambda g: g.b.ew.cast(g.b.ew.cast(g.input("x", "S", dtype="i32"), dtype=dtype), dtype=DType.F32)

    assert simplified(over(DType.I64)).ops == ["ew.cast"]
    assert simplified(over(DType.I8)).ops == ["ew.cast", "ew.cast"]
