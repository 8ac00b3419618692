"""Softmax attention as exporters write it: scales, masks, causal masks, grouped heads, and what must not fuse."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from pass_graphs import Graph, Outcome, apply, built, reasons

from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.passes.rules.fuse.attention import Attention

B, S, T, H, D = Dim.of("B"), Dim.of("S"), Dim.of("T"), Dim.of(4), Dim.of(6)
LOWEST = float(np.finfo(np.float32).min)


def fused(make) -> Outcome:  # type: ignore[no-untyped-def]
    return apply(built(make), "simplify", "fuse")


def heads(g: Graph, name: str, tokens: str, scale: float | None = None) -> Value:
    """[B, H, tokens, D] from a linear-like [B, tokens, H * D] input."""
    x = g.input(name, "B", tokens, 24)
    x = g.b.ew.mul(x, scale) if scale else x
    split = g.b.view.reshape(x, shape=(B, Dim.of(tokens), H, D))
    return g.b.view.transpose(split, perm=(0, 2, 1, 3))


def attend(g: Graph, scores: Value, v: Value) -> Value:
    """[B, T, H * D] tokens from scores [B, H, S, T]."""
    y = g.b.nn.matmul(g.b.nn.softmax(scores, axis=3), v)
    return g.b.view.reshape(g.b.view.transpose(y, perm=(0, 2, 1, 3)), shape=(B, y.shape[2], H * D))


def raw_scores(g: Graph, keys: str = "T") -> tuple[Value, Value]:
    """(scores, v) for queries of length S."""
    q, k, v = heads(g, "q", "S"), heads(g, "k", keys), heads(g, "v", keys)
    return g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 1, 3, 2))), v


VIEWS = ["view.reshape"] * 3
PLAIN = [*VIEWS, "nn.attention", "view.reshape"]


def test_scaled_attention_leaves_no_transpose() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        return attend(g, g.b.ew.div(scores, 8.0), v)

    out = fused(make)
    assert sorted(out.ops) == sorted(PLAIN)
    attention = out.result.args[0].producer
    assert attention.attrs["scale"] == 0.125


@pytest.mark.parametrize("side", ["q", "k"])
def test_a_scale_in_front_of_the_product_goes_into_attention(side: str) -> None:
    def make(g: Graph) -> Value:
        q = heads(g, "q", "S", 0.5 if side == "q" else None)
        k = heads(g, "k", "T", 0.5 if side == "k" else None)
        scores = g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 1, 3, 2)))
        return attend(g, scores, heads(g, "v", "T"))

    out = fused(make)
    assert sorted(out.ops) == sorted(PLAIN)
    assert out.result.args[0].producer.attrs["scale"] == 0.5


def direct(g: Graph, q: Value, mask: Value | None = None) -> Value:
    """nn.attention itself, as the torch frontend writes scaled_dot_product_attention."""
    k, v = g.input("k", "B", "T", 4, 6), g.input("v", "B", "T", 4, 6)
    return g.b.nn.attention(q, k, v, mask, scale=0.5)


def test_a_scale_in_front_of_attention_itself_goes_into_it() -> None:
    def make(factor: float):  # type: ignore[no-untyped-def]
        def graph(g: Graph) -> Value:
            q = g.b.ew.mul(g.input("q", "B", "S", 24), factor)
            return direct(g, g.b.view.slice(g.b.view.reshape(q, shape=(B, S, H, D)), axis=2, stop=4))

        return graph

    out = fused(make(0.25))
    assert out.ops == ["view.reshape", "nn.attention"]
    assert out.result.attrs["scale"] == 0.125
    assert "ew.neg" in fused(make(-1.0)).ops  # a negative scale would confuse kernels that take maxima


def test_an_expanded_mask_is_not_expanded() -> None:
    def make(g: Graph) -> Value:
        mask = g.b.view.expand(g.input("mask", "B", 1, 1, "T", dtype="bool"), shape=(B, Dim.of(1), S, T))
        return direct(g, g.input("q", "B", "S", 4, 6), mask)

    out = fused(make)
    assert out.ops == ["nn.attention"]
    assert str(out.result.args[3]) == "%mask"


def test_attention_in_both_directions_by_one_product() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        scores, v = raw_scores(g)
        scores = g.b.ew.mul(scores, 0.5)
        back = g.b.nn.softmax(g.b.view.transpose(scores, perm=(0, 1, 3, 2)), axis=3)
        return attend(g, scores, v), g.b.nn.matmul(back, heads(g, "w", "S"))

    out = fused(make)
    assert out.ops.count("nn.attention") == 2
    assert "nn.matmul" not in out.ops


def test_transposed_scores_that_are_an_output_stay() -> None:
    def make(g: Graph) -> Value:
        scores, _ = raw_scores(g)
        return g.b.ew.exp(g.b.nn.softmax(g.b.view.transpose(scores, perm=(0, 1, 3, 2)), axis=3))

    out = fused(make)
    assert out.ops.count("nn.matmul") == 1
    assert out.reasons("transposed_scores") == ["the weights of the transposed scores are used elsewhere"]


def test_an_additive_mask_and_a_bias_are_added_first() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        biased = g.b.ew.add(g.b.ew.mul(scores, 0.5), g.input("bias", 1, 4, "S", "T"))
        return attend(g, g.b.ew.add(biased, g.input("mask", "B", 1, 1, "T")), v)

    out = fused(make)
    assert sorted(out.ops) == sorted([*PLAIN, "ew.add"])


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("hidden", [-inf, LOWEST])
def test_a_bool_mask(inverted: bool, hidden: float) -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        mask = g.input("mask", "B", 1, 1, "T", dtype="bool")
        mask = g.b.ew.not_(mask) if inverted else mask
        return attend(g, g.b.ew.where(mask, scores, hidden), v)

    out = fused(make)
    assert "nn.softmax" not in out.ops
    assert ("ew.where" in out.ops) == (hidden == LOWEST)


def test_masked_fill() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        return attend(g, g.b.ew.where(g.input("mask", "B", 1, 1, "T", dtype="bool"), -inf, scores), v)

    assert "nn.attention" in fused(make).ops


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("hidden", [-inf, LOWEST])
def test_a_bias_that_is_added_before_a_fill(inverted: bool, hidden: float) -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        mask = g.input("mask", "B", 1, 1, "T", dtype="bool")
        parts = (g.b.ew.add(g.b.ew.mul(scores, 0.5), g.input("bias", 1, 4, "S", "T")), hidden)
        return attend(g, g.b.ew.where(mask, *(parts[::-1] if inverted else parts)), v)

    out = fused(make)
    assert sorted(out.ops) == sorted([*PLAIN, "ew.where"])


def test_a_fill_that_is_not_negligible_stays() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        return attend(g, g.b.ew.where(g.input("mask", "B", 1, 1, "T", dtype="bool"), scores, -10.0), v)

    out = fused(make)
    assert "nn.softmax" in out.ops
    assert out.reasons("attention") == ["scores are replaced by -10.0, which is not negligible"]


def test_weights_that_are_an_output_stay() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        scores, v = raw_scores(g)
        weights = g.b.nn.softmax(scores, axis=3)
        return g.b.nn.matmul(weights, v), g.b.ew.exp(weights)

    out = fused(make)
    assert "nn.attention" not in out.ops
    assert out.reasons("attention") == ["the attention weights are used elsewhere"]


def test_softmax_along_queries_is_no_attention() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g)
        return g.b.nn.matmul(g.b.nn.softmax(scores, axis=2), v)

    out = fused(make)
    assert "nn.attention" not in out.ops
    assert reasons(Attention(), built(make)) == ["nn.softmax has axis=2, needs -1"]


def test_one_head_of_rank_3() -> None:
    def make(g: Graph) -> Value:
        q, k, v = (g.input(name, "B", tokens, 6) for name, tokens in (("q", "S"), ("k", "T"), ("v", "T")))
        scores = g.b.ew.add(g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 2, 1))), g.input("mask", "B", 1, "T"))
        return g.b.nn.matmul(g.b.nn.softmax(scores, axis=2), v)

    out = fused(make)
    assert "nn.attention" in out.ops
    assert set(out.ops) == {"nn.attention", "view.reshape"}


def test_heads_merged_into_the_batch() -> None:
    def make(g: Graph) -> Value:
        q, k, v = heads(g, "q", "S"), heads(g, "k", "T"), heads(g, "v", "T")
        q, k, v = (g.b.view.reshape(x, shape=(B * 4, x.shape[2], D)) for x in (q, k, v))
        scores = g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 2, 1)))
        scores = g.b.view.reshape(scores, shape=(B, H, S, T))
        scores = g.b.ew.add(scores, g.input("mask", "B", 1, 1, "T"))
        weights = g.b.nn.softmax(g.b.view.reshape(scores, shape=(B * 4, S, T)), axis=2)
        y = g.b.view.reshape(g.b.nn.matmul(weights, v), shape=(B, H, S, D))
        return g.b.view.reshape(g.b.view.transpose(y, perm=(0, 2, 1, 3)), shape=(B, S, H * D))

    out = fused(make)
    assert sorted(out.ops) == sorted(PLAIN)


def test_windows_with_bias_and_shifted_mask() -> None:
    """Swin: scores [B * W, H, N, N] + bias, seen as [B, W, H, N, N] + mask [W, 1, N, N]."""

    def make(g: Graph) -> Value:
        windows, n = B * 3, Dim.of(5)
        q, k, v = (g.input(name, B * 3, 4, 5, 6) for name in ("q", "k", "v"))
        g.input("b", "B")
        scores = g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 1, 3, 2)))
        scores = g.b.ew.add(g.b.ew.mul(scores, 0.5), g.weight("bias", 1, 4, 5, 5))
        split = g.b.view.reshape(scores, shape=(B, Dim.of(3), H, n, n))
        masked = g.b.ew.add(split, g.weight("mask", 1, 3, 1, 5, 5))
        merged = g.b.view.reshape(masked, shape=(windows, H, n, n))
        return g.b.nn.matmul(g.b.nn.softmax(merged, axis=3), v)

    out = fused(make)
    assert "nn.attention" in out.ops
    assert "nn.softmax" not in out.ops


# -- causal masks --------------------------------------------------------------------------------------------------
def position(g: Graph, axis: int) -> Value:
    """Query (axis -2) or key (axis -1) numbers, as [S, 1] or [S]."""
    iota = g.b.make.iota(size=S)
    return g.b.view.reshape(iota, shape=(S, Dim.of(1))) if axis == -2 else iota


def causal_condition(g: Graph, form: str) -> Value:
    query, key = position(g, -2), position(g, -1)
    return {
        "le": lambda: g.b.ew.le(key, query),
        "ge": lambda: g.b.ew.ge(query, key),
        "lt": lambda: g.b.ew.lt(key, g.b.ew.add(query, 1)),
        "difference": lambda: g.b.ew.le(g.b.ew.sub(key, query), 0),
        "not": lambda: g.b.ew.not_(g.b.ew.gt(key, query)),
        "window": lambda: g.b.ew.and_(g.b.ew.le(key, query), g.b.ew.gt(key, g.b.ew.sub(query, 4096))),
    }[form]()


@pytest.mark.parametrize("form", ["le", "ge", "lt", "difference", "not", "window"])
@pytest.mark.parametrize("hidden", [-inf, LOWEST, "add"])
def test_causal_masks_need_no_mask(form: str, hidden: float | str) -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g, "S")
        condition = causal_condition(g, form)
        if hidden == "add":
            return attend(
                g,
                g.b.ew.add(scores, g.b.ew.where(condition, 0.0, g.b.make.full(shape=(S, S), value=-inf, dtype="f32"))),
                v,
            )
        return attend(g, g.b.ew.where(condition, scores, hidden), v)

    out = fused(make)
    attention = out.result.args[0].producer
    assert attention.op == "nn.attention"
    assert attention.attrs["causal"]
    assert len(attention.args) == 3


def test_a_limit_of_the_scores() -> None:
    """tanh(scores / 50) * 50, as Gemma writes it."""

    def make(cap: float):  # type: ignore[no-untyped-def]
        def graph(g: Graph) -> Value:
            scores, v = raw_scores(g)
            capped = g.b.ew.mul(g.b.ew.tanh(g.b.ew.mul(scores, 0.01)), cap)
            return attend(g, g.b.ew.add(capped, g.input("mask", "B", 1, 1, "T")), v)

        return graph

    attention = fused(make(50.0)).result.args[0].producer
    assert (attention.op, attention.attrs["softcap"], attention.attrs["scale"]) == ("nn.attention", 50.0, 0.5)
    out = fused(make(-50.0))
    assert "nn.softmax" in out.ops
    assert out.reasons("attention") == ["scores are limited to -50.0, which is not positive"]


def test_a_known_triangle_is_causal() -> None:
    def make(g: Graph) -> Value:
        q, k, v = (g.input(name, "B", 4, 5, 6) for name in ("q", "k", "v"))
        scores = g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 1, 3, 2)))
        mask = g.array("mask", np.where(np.tri(5, dtype=bool), 0, -1e9).astype(np.float32)[None, None])
        return g.b.nn.matmul(g.b.nn.softmax(g.b.ew.add(scores, mask), axis=3), v)

    out = fused(make)
    assert [node.attrs["causal"] for node in out.module.main.nodes if node.op == "nn.attention"] == [True]
    assert not out.module.weights


@pytest.mark.parametrize("form", ["strict", "future", "narrow window", "other axis"])
def test_other_index_masks_stay_masks(form: str) -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g, "S")
        query, key = position(g, -2), position(g, -1)
        condition = {
            "strict": lambda: g.b.ew.lt(key, query),
            "future": lambda: g.b.ew.le(key, g.b.ew.add(query, 1)),
            "narrow window": lambda: g.b.ew.gt(key, g.b.ew.sub(query, 3)),
            "other axis": lambda: g.b.ew.ge(key, query),
        }[form]()
        return attend(g, g.b.ew.where(condition, scores, -inf), v)

    out = fused(make)
    attention = out.result.args[0].producer
    assert attention.op == "nn.attention"
    assert not attention.attrs["causal"]
    assert len(attention.args) == 4


def test_a_padding_mask_stays_beside_a_causal_one() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g, "S")
        padding = g.input("mask", "B", 1, 1, "S", dtype="bool")
        return attend(g, g.b.ew.where(g.b.ew.and_(causal_condition(g, "le"), padding), scores, -inf), v)

    attention = fused(make).result.args[0].producer
    assert attention.attrs["causal"]
    assert str(attention.args[3]) == "%mask"


def test_an_additive_mask_of_both_kinds_stays_whole() -> None:
    def make(g: Graph) -> Value:
        scores, v = raw_scores(g, "S")
        padding = g.input("mask", "B", 1, 1, "S", dtype="bool")
        condition = g.b.ew.and_(causal_condition(g, "le"), padding)
        return attend(g, g.b.ew.where(condition, scores, LOWEST), v)

    out = fused(make)
    attention = out.result.args[0].producer
    assert not attention.attrs["causal"]
    assert "a row without any key would differ" in out.reasons("causal_mask")[0]


# -- grouped heads -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["expand", "gather"])
def test_repeated_heads_are_grouped(how: str) -> None:
    def repeated(g: Graph, name: str) -> Value:
        x = g.b.view.transpose(g.input(name, "B", "T", 2, 6), perm=(0, 2, 1, 3))
        if how == "gather":
            return g.b.index.gather(x, g.array(f"{name}.heads", np.int64([0, 0, 1, 1])), axis=1)
        wide = g.b.view.expand(
            g.b.view.reshape(x, shape=(B, Dim.of(2), Dim.of(1), T, D)), shape=(B, Dim.of(2), Dim.of(2), T, D)
        )
        return g.b.view.reshape(wide, shape=(B, H, T, D))

    def make(g: Graph) -> Value:
        k, v = repeated(g, "k"), repeated(g, "v")
        scores = g.b.nn.matmul(heads(g, "q", "S"), g.b.view.transpose(k, perm=(0, 1, 3, 2)))
        return attend(g, scores, v)

    out = fused(make)
    attention = out.result.args[0].producer
    assert [str(arg) for arg in attention.args[1:3]] == ["%k", "%v"]
    assert sorted(out.ops) == ["nn.attention", "view.reshape", "view.reshape"]
