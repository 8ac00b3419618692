"""Canonical forms of views, reductions and gathers: graphs that change, and near misses that must stay."""

from __future__ import annotations

import numpy as np
from pass_graphs import Graph, index, simplified

from nomul.ir.dim import Dim
from nomul.ir.types import DType

S, ONE = Dim.of("S"), Dim.of(1)


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
