"""Masks and biases of attention that follow from the places of query and key alone."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Graph
from test_passes_attention import LOWEST, S, fused, position

from nomul.ir.dim import Dim
from nomul.ir.graph import Value


def by_places(form: str, g: Graph) -> Value:
    """Masks that say who sees whom by places alone."""
    query, key = position(g, -2), position(g, -1)
    causal = g.b.ew.le(key, query)
    return {
        "sliding": lambda: g.b.ew.and_(causal, g.b.ew.gt(key, g.b.ew.sub(query, 4))),
        "band": lambda: g.b.ew.and_(g.b.ew.lt(g.b.ew.sub(query, key), 3), g.b.ew.lt(g.b.ew.sub(key, query), 3)),
        "block": lambda: g.b.ew.le(g.b.ew.floor_div(key, 4), g.b.ew.floor_div(query, 4)),
        "prefix": lambda: g.b.ew.or_(causal, g.b.ew.lt(key, 5)),
        "half band": lambda: g.b.ew.lt(g.b.ew.sub(query, key), 3),
        "window of blocks": lambda: g.b.ew.and_(by_places("block", g), g.b.ew.gt(key, g.b.ew.sub(query, 4))),
    }[form]()


PLACES = {
    "sliding": {"causal": True, "window": 4},
    "band": {"causal": False, "window": 3},
    "block": {"causal": True, "block": 4},
    "prefix": {"causal": True, "prefix": Dim.of(5)},
}


@pytest.mark.parametrize("form", PLACES)
@pytest.mark.parametrize("known", [False, True])
def test_masks_by_places(form: str, known: bool) -> None:
    """Computed from counters, or a weight."""
    query, key = np.arange(9)[:, None], np.arange(9)
    arrays = {
        "sliding": (key <= query) & (key > query - 4),
        "band": abs(query - key) < 3,
        "block": key // 4 <= query // 4,
        "prefix": (key <= query) | (key < 5),
    }

    def make(g: Graph) -> Value:
        size = 9 if known else "S"
        q, k, v = (g.input(name, "B", size, 4, 6) for name in ("q", "k", "v"))
        mask = g.array("mask", arrays[form]) if known else by_places(form, g)
        return g.b.nn.attention(q, k, v, mask, scale=0.5)

    out = fused(make)
    assert out.ops == ["nn.attention"] and len(out.result.args) == 3
    assert {name: out.result.attrs[name] for name in PLACES[form]} == PLACES[form]


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_mask_keeps_its_bias_and_what_is_not_by_places(with_bias: bool) -> None:
    """New axes between the parts of the mask are looked through."""

    def make(g: Graph) -> Value:
        q, k, v = (g.input(name, "B", "S", 4, 6) for name in ("q", "k", "v"))
        one, B = Dim.of(1), Dim.of("B")
        same = g.b.ew.eq(g.input("to", "B", "S", 1, dtype="i64"), g.input("from", "B", 1, "S", dtype="i64"))
        seen = g.b.view.reshape(g.b.ew.and_(same, by_places("sliding", g)), shape=(B, one, S, S))
        mask = g.b.ew.where(seen, g.input("bias", 4, "S", "S"), -np.inf) if with_bias else seen
        return g.b.nn.attention(q, k, v, mask, scale=0.5)

    out = fused(make)
    assert sorted(out.ops) == sorted(["ew.eq", "view.reshape", "nn.attention", *["ew.where"] * with_bias])
    assert {name: out.result.attrs[name] for name in PLACES["sliding"]} == PLACES["sliding"]


@pytest.mark.parametrize("form", ["half band", "window of blocks"])
def test_masks_that_attributes_cannot_say_stay(form: str) -> None:
    def make(g: Graph) -> Value:
        q, k, v = (g.input(name, "B", "S", 4, 6) for name in ("q", "k", "v"))
        return g.b.nn.attention(q, k, v, by_places(form, g), scale=0.5)

    out = fused(make)
    assert len(out.result.args) == 4
    assert out.result.attrs["window"] == 0


def apart(g: Graph) -> Value:
    """t - s."""
    return g.b.ew.sub(position(g, -1), position(g, -2))


def alibi(g: Graph) -> Value:
    slopes = g.array("slopes", np.array([0.5, 0.25, 0.125, 0.0625], np.float32).reshape(1, 4, 1, 1))
    return g.b.ew.mul(slopes, g.b.ew.cast(apart(g), dtype="f32"))


def buckets(g: Graph) -> Value:
    """T5: a table read by bucket, the distance at small ones and a logarithm of it beyond."""
    size = g.b.ew.abs(apart(g))
    far = g.b.ew.cast(g.b.ew.log(g.b.ew.add(g.b.ew.cast(size, dtype="f32"), 1.0)), dtype="i64")
    bucket = g.b.ew.where(g.b.ew.lt(size, 4), size, g.b.ew.clip(g.b.ew.add(far, 2), high=7.0))
    later = g.b.ew.where(
        g.b.ew.gt(position(g, -1), position(g, -2)), g.b.make.full(shape=(S, S), value=8.0, dtype="i64"), 0
    )
    table = g.b.index.gather(g.weight("table", 16, 4), g.b.ew.add(bucket, later), axis=0)
    return g.b.view.reshape(g.b.view.transpose(table, perm=(2, 0, 1)), shape=(1, 4, S, S))


def with_bias(g: Graph, bias: Value) -> Value:
    q, k, v = (g.input(name, "B", "S", 4, 6) for name in ("q", "k", "v"))
    return g.b.nn.attention(q, k, v, bias, scale=0.5)


@pytest.mark.parametrize("bias", [alibi, buckets])
@pytest.mark.parametrize("padding", ["none", "where", "add"])
def test_a_bias_by_distance_has_one_number_per_distance(bias, padding: str) -> None:  # type: ignore[no-untyped-def]
    def make(g: Graph) -> Value:
        whole = bias(g)
        if padding == "where":
            whole = g.b.ew.where(g.input("seen", "B", 1, 1, "S", dtype="bool"), whole, LOWEST)
        elif padding == "add":
            whole = g.b.ew.add(whole, g.input("mask", "B", 1, 1, "S"))
        return with_bias(g, whole)

    out = fused(make)
    mask, relative = out.result.args[3:5]
    assert str(relative.type) == "f32[4, 2*S - 1]"
    assert (mask is None) == (padding == "none")
    assert mask is None or mask.shape[1:3] == (1, 1)
    squares = [node for node in out.module.main.nodes if node.result.shape[-2:] == (S, S)]
    assert squares == []


def test_a_known_bias_by_distance() -> None:
    def make(g: Graph) -> Value:
        q, k, v = (g.input(name, "B", tokens, 4, 6) for name, tokens in (("q", 5), ("k", 7), ("v", 7)))
        distance = np.arange(7) - np.arange(5)[:, None]
        return g.b.nn.attention(
            q, k, v, g.array("bias", np.sin(distance + np.arange(4)[:, None, None], dtype=np.float32)), scale=0.5
        )

    out = fused(make)
    assert str(out.result.args[4].type) == "f32[4, 11]"


def test_a_bias_by_two_distances_stays() -> None:
    """Swin's is by rows and columns of a window."""

    def make(g: Graph) -> Value:
        q, k, v = (g.input(name, "B", 4, 4, 6) for name in ("q", "k", "v"))
        table = g.b.index.gather(g.weight("table", 9, 4), g.input("bucket", 4, 4, dtype="i64"), axis=0)
        return g.b.nn.attention(q, k, v, g.b.view.transpose(table, perm=(2, 0, 1)), scale=0.5)

    out = fused(make)
    assert len(out.result.args) == 4
    assert out.reasons("distance_bias") == ["the bias does not depend on key - query alone"]
