"""Each canonical form: one graph that it changes, numerics checked by the runner, and near misses that must stay."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Graph, apply, built

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant
from nomul.ir.types import DType

S, ONE = Dim.of("S"), Dim.of(1)


def simplified(make):  # type: ignore[no-untyped-def]
    return apply(built(make), "simplify")


def constant(node, position: int = 1) -> float:  # type: ignore[no-untyped-def]
    value = node.args[position]
    assert isinstance(value, Constant)
    return value.value


def index(value: int) -> Constant:
    return Constant(value, DType.I64)


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


# -- views ---------------------------------------------------------------------------------------------------------
def test_a_transpose_of_unit_axes_is_a_reshape() -> None:
    out = simplified(lambda g: g.b.view.transpose(g.input("x", 1, "S", 4), perm=(1, 0, 2)))
    assert out.ops == ["view.reshape"]
    assert simplified(lambda g: g.b.view.transpose(g.input("x", "B", "S", 4), perm=(1, 0, 2))).ops == ["view.transpose"]


def test_slices_of_slices_and_of_concatenations() -> None:
    def nested(g: Graph):  # type: ignore[no-untyped-def]
        inner = g.b.view.slice(g.input("x", "S", 20), axis=1, start=2, stop=18, step=3)
        return g.b.view.slice(inner, axis=1, start=1, stop=6, step=2)

    out = simplified(nested)
    assert out.ops == ["view.slice"]
    assert (out.result.attrs["start"], out.result.attrs["step"]) == (5, 6)

    def part(start: int, stop: int):  # type: ignore[no-untyped-def]
        def make(g: Graph):  # type: ignore[no-untyped-def]
            both = g.b.view.concat(g.input("x", "S", 4), g.b.ew.exp(g.input("y", "S", 6)), axis=1)
            return g.b.view.slice(both, axis=1, start=start, stop=stop)

        return make

    assert simplified(part(5, 9)).ops == ["ew.exp", "view.slice"]
    assert simplified(part(0, 4)).ops == ["view.reshape"] or simplified(part(0, 4)).ops == []
    assert "view.concat" in simplified(part(3, 6)).ops


def test_expansions_in_front_of_elementwise_ops_go() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        wide = g.b.view.expand(g.input("m", "B", 1, 1, "S"), shape=(Dim.of("B"), Dim.of(4), S, S))
        return g.b.ew.add(g.input("x", "B", 4, "S", "S"), wide)

    assert simplified(make).ops == ["ew.add"]


def test_computation_moves_in_front_of_an_expansion() -> None:
    out = simplified(
        lambda g: g.b.ew.exp(g.b.view.expand(g.input("x", 1, 4), shape=(S, Dim.of(4)))) if g.input("s", "S") else None
    )
    assert out.ops == ["ew.exp", "view.expand"]


def test_functions_of_filled_tensors_are_filled() -> None:
    out = simplified(
        lambda g: g.b.ew.add(g.b.make.full(shape=(S,), value=2.0, dtype="f32"), 1.0) if g.input("s", "S") else None
    )
    assert out.ops == ["make.full"]
    assert out.result.attrs["value"] == 3


def test_a_reduction_over_unit_axes_is_a_reshape() -> None:
    assert simplified(lambda g: g.b.reduce.mean(g.input("x", "S", 1), axes=(1,))).ops == ["view.reshape"]


def test_a_mean_from_a_sum_needs_the_right_count() -> None:
    def scaled_sum(factor: float):  # type: ignore[no-untyped-def]
        return lambda g: g.b.ew.mul(g.b.reduce.sum(g.input("x", "S", 8), axes=(1,)), factor)

    assert simplified(scaled_sum(0.125)).ops == ["reduce.mean"]
    assert simplified(scaled_sum(0.25)).ops == ["reduce.sum", "ew.mul"]


def test_a_reduction_keeps_its_axes() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        return g.b.view.reshape(g.b.reduce.mean(g.input("x", "S", 8), axes=(1,)), shape=(S, ONE))

    out = simplified(make)
    assert out.ops == ["reduce.mean"]
    assert out.result.attrs["keepdims"]


def test_reductions_of_reductions_are_one() -> None:
    def make(keepdims: bool):  # type: ignore[no-untyped-def]
        def graph(g: Graph):  # type: ignore[no-untyped-def]
            inner = g.b.reduce.mean(g.input("x", "B", 4, "S", 6), axes=(3,), keepdims=keepdims)
            return g.b.reduce.mean(inner, axes=(2,), keepdims=keepdims)

        return graph

    for keepdims in (True, False):
        out = simplified(make(keepdims))
        assert [op for op in out.ops if op != "view.reshape"] == ["reduce.mean"]
        assert out.module.main.nodes[0].attrs["axes"] == (2, 3)


def test_a_sum_of_a_maximum_stays_two_reductions() -> None:
    out = simplified(lambda g: g.b.reduce.sum(g.b.reduce.max(g.input("x", "B", "S", 4), axes=(2,)), axes=(1,)))
    assert out.ops == ["reduce.max", "reduce.sum"]


def test_reductions_move_in_front_of_expansions_of_other_axes() -> None:
    def make(axis: int):  # type: ignore[no-untyped-def]
        def graph(g: Graph):  # type: ignore[no-untyped-def]
            return g.b.reduce.sum(
                g.b.view.expand(g.input("x", "B", "S", 1), shape=(Dim.of("B"), S, Dim.of(4))), axes=(axis,)
            )

        return graph

    assert simplified(make(1)).ops == ["reduce.sum", "view.expand"]
    assert simplified(make(2)).ops == ["view.expand", "reduce.sum"]


def test_expansions_of_expansions_are_one() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        inner = g.b.view.expand(g.input("x", 1, 1, 4), shape=(ONE, Dim.of(3), Dim.of(4)))
        return g.b.view.expand(inner, shape=(Dim.of(2), Dim.of(3), Dim.of(4)))

    assert simplified(make).ops == ["view.expand"]


def test_empty_parts_of_a_concatenation_go() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        empty = g.b.view.slice(g.input("y", "S", 4), axis=1, start=2, stop=2)
        return g.b.view.concat(g.input("x", "S", 4), empty, g.input("z", "S", 1), axis=1)

    out = simplified(make)
    assert out.ops == ["view.concat"]
    assert len(out.result.args) == 2


def test_views_and_casts_of_made_tensors_are_made() -> None:
    def counted(g: Graph):  # type: ignore[no-untyped-def]
        g.input("x", "S")
        iota = g.b.make.iota(size=S + 3, dtype="i32")
        return g.b.ew.cast(g.b.ew.mul(g.b.view.slice(iota, axis=0, start=2, stop=S + 2), 3), dtype=DType.I64)

    out = simplified(counted)
    assert out.ops == ["make.iota"]
    assert (out.result.attrs["start"], out.result.attrs["step"]) == (6, 3)

    def filled(g: Graph):  # type: ignore[no-untyped-def]
        g.input("x", "S")
        return g.b.ew.cast(
            g.b.view.reshape(g.b.make.full(shape=(S, 2), value=1, dtype="i64"), shape=(S * 2,)), dtype=DType.F32
        )

    assert simplified(filled).ops == ["make.full"]


def test_conditions_joined_with_a_literal() -> None:
    def make(value: bool, op: str):  # type: ignore[no-untyped-def]
        return lambda g: g.b.ew.not_(g.b.op(op, g.input("m", "S", dtype="bool"), value))

    assert simplified(make(True, "ew.and")).ops == ["ew.not"]
    assert simplified(make(False, "ew.or")).ops == ["ew.not"]
    assert simplified(make(False, "ew.and")).ops == ["ew.and", "ew.not"]


# -- gathers -------------------------------------------------------------------------------------------------------
def test_gathers_by_known_runs_are_slices() -> None:
    out = simplified(lambda g: g.b.index.gather(g.input("x", "B", "S", 4), index(0), axis=1))
    assert out.ops == ["view.slice", "view.reshape"]
    out = simplified(lambda g: g.b.index.gather(g.input("x", "B", "S", 4), index(-1), axis=1))
    assert out.ops == ["view.slice", "view.reshape"]
    out = simplified(lambda g: g.b.index.gather(g.input("x", 9, 4), g.array("i", np.int64([1, 3, 5]))))
    assert (out.ops, out.result.attrs["step"]) == (["view.slice"], 2)
    out = simplified(lambda g: g.b.index.gather(g.input("x", 9, 4), g.array("i", np.int64([1, 3, 4]))))
    assert out.ops == ["index.gather"]


def test_a_gather_that_may_clamp_stays() -> None:
    assert simplified(lambda g: g.b.index.gather(g.input("x", "B", "S", 4), index(3), axis=1)).ops == ["index.gather"]


def test_positions_from_a_counting_weight_are_a_slice_of_the_table() -> None:
    def make(size: int):  # type: ignore[no-untyped-def]
        def positions(g: Graph):  # type: ignore[no-untyped-def]
            ids = g.b.view.slice(g.array("ids", np.arange(size)[None]), axis=1, stop=S)
            return g.b.ew.add(g.b.index.gather(g.weight("table", size, 4), ids), g.input("x", "S", 4))

        return positions

    assert "index.gather" not in simplified(make(16)).ops
    assert "index.gather" in simplified(lambda g: _short_table(g)).ops


def _short_table(g: Graph):  # type: ignore[no-untyped-def]
    iota = g.b.make.iota(size=S)
    return g.b.ew.add(g.b.index.gather(g.weight("table", 4, 4), iota), g.input("x", "S", 4))


def test_a_gather_of_one_index_reads_one_row() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        zeros = g.b.make.full(shape=(S,), value=0, dtype="i64")
        return g.b.ew.add(g.input("x", "S", 4), g.b.index.gather(g.weight("table", 2, 4), zeros))

    out = simplified(make)
    assert out.ops == ["ew.add"]


# -- sinking -------------------------------------------------------------------------------------------------------
def test_reshapes_move_behind_elementwise_and_row_ops() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        flat = g.b.view.reshape(g.input("x", "B", "S", 8), shape=(Dim.of("B") * S, Dim.of(8)))
        y = g.b.nn.layer_norm(g.b.ew.mul(g.b.nn.linear(flat, g.weight("w", 6, 8)), 0.5))
        return g.b.view.reshape(y, shape=(Dim.of("B"), S, Dim.of(6)))

    assert simplified(make).ops == ["nn.linear", "ew.mul", "nn.layer_norm"]


def test_operands_of_full_size_are_split_where_a_reshape_merges() -> None:
    def make(merged: bool):  # type: ignore[no-untyped-def]
        def graph(g: Graph):  # type: ignore[no-untyped-def]
            few, many = (S * 4, Dim.of(6)), (S, Dim.of(4), Dim.of(2), Dim.of(3))
            x, y = (few, many) if not merged else (many, few)
            x, y = g.input("x", *x), g.input("y", *y)
            return g.b.ew.exp(g.b.ew.add(g.b.view.reshape(x, shape=y.shape), y))

        return graph

    assert simplified(make(True)).ops == ["view.reshape", "ew.add", "ew.exp", "view.reshape"]
    assert simplified(make(False)).ops == ["view.reshape", "ew.add", "ew.exp"]


def test_a_reshape_of_the_last_axis_stays_in_front_of_a_row_op() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        return g.b.nn.softmax(g.b.view.reshape(g.input("x", "S", 8), shape=(S, Dim.of(2), Dim.of(4))), axis=2)

    assert simplified(make).ops == ["view.reshape", "nn.softmax"]


def test_products_of_merged_batches_are_products_of_batches() -> None:
    def make(g: Graph):  # type: ignore[no-untyped-def]
        batch = Dim.of("B") * 2
        q = g.b.view.reshape(g.input("q", "B", 2, "S", 4), shape=(batch, S, Dim.of(4)))
        k = g.b.view.reshape(g.input("k", "B", 2, 4, "T"), shape=(batch, Dim.of(4), Dim.of("T")))
        return g.b.view.reshape(g.b.nn.matmul(q, k), shape=(Dim.of("B"), Dim.of(2), S, Dim.of("T")))

    assert simplified(make).ops == ["nn.matmul"]
