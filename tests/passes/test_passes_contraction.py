"""Products behind views as contractions: layouts, orders, and what is none."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from pass_graphs import Graph, apply

from nomul.ir.graph import Module, Value
from nomul.ir.types import DType
from nomul.passes.contraction import MOST_NODES, contraction

SIZES = {"b": 2, "h": 3, "s": 5, "t": 4, "d": 6, "e": 7}


def turned(g: Graph, x: Value, given: str, wanted: str) -> Value:
    return g.b.view.transpose(x, perm=tuple(given.index(label) for label in wanted))


def attention_in(q_axes: str, k_axes: str, v_axes: str, values_first: bool) -> Module:
    """Linear attention of operands whose axes stand in these orders."""
    g = Graph({})
    q, k, v = (
        g.input(name, *(SIZES[axis] for axis in axes)) for name, axes in (("q", q_axes), ("k", k_axes), ("v", v_axes))
    )
    q, k = g.b.ew.exp(q), g.b.ew.exp(k)
    queries, keys, values = turned(g, q, q_axes, "bhsd"), turned(g, k, k_axes, "bhdt"), turned(g, v, v_axes, "bhte")
    total = g.b.reduce.sum(keys, axes=(3,), keepdims=True)
    divisor = g.b.nn.matmul(queries, total)
    if values_first:
        y = g.b.nn.matmul(queries, g.b.nn.matmul(keys, turned(g, values, "bhte", "bhte")))
    else:
        y = g.b.nn.matmul(g.b.nn.matmul(queries, keys), values)
    return g.module(g.b.ew.div(y, divisor))


@pytest.mark.parametrize("values_first", [False, True])
@pytest.mark.parametrize("place", range(0, 24, 5))
def test_every_layout_is_one_attention(place: int, values_first: bool) -> None:
    """Checked against the interpreter: a wrong layout would give other results."""
    q, k, v = (["".join(p) for p in permutations(axes)] for axes in ("bhsd", "bhtd", "bhte"))
    module = attention_in(q[place], k[(7 * place + 3) % 24], v[(11 * place + 1) % 24], values_first)
    outcome = apply(module, "fuse")
    assert [op for op in outcome.ops if not op.startswith("view.")] == ["nn.linear_attention"]


@pytest.mark.parametrize("channels", [(3, 6), (6, 3)])
def test_heads_that_are_joined_with_features_come_apart(channels: tuple[int, int]) -> None:
    """Values and one view of keys are split by heads before they are turned, the other views after it."""
    heads, size = channels
    g = Graph({})
    q, k, v = (g.input(name, 2, 5, heads * size) for name in ("q", "k", "v"))
    q, k = g.b.ew.exp(q), g.b.ew.exp(k)
    queries, early, values = (
        turned(g, g.b.view.reshape(x, shape=(2, 5, heads, size)), "bshd", "bhsd") for x in (q, k, v)
    )
    late = g.b.view.reshape(turned(g, k, "btc", "bct"), shape=(2, heads, size, 5))
    total = turned(g, g.b.reduce.sum(early, axes=(2,), keepdims=True), "bhsd", "bhds")
    y = g.b.ew.div(g.b.nn.matmul(queries, g.b.nn.matmul(late, values)), g.b.nn.matmul(queries, total))
    outcome = apply(g.module(y), "fuse")
    assert [op for op in outcome.ops if not op.startswith("view.")] == ["nn.linear_attention"]


def test_a_softmax_over_several_heads_is_no_map() -> None:
    g = Graph({})
    q, k, v = (g.input(name, 2, 5, 12) for name in ("q", "k", "v"))
    q, k = (g.b.nn.softmax(x, axis=2) for x in (q, k))
    queries, keys, values = (turned(g, g.b.view.reshape(x, shape=(2, 5, 3, 4)), "bshd", "bhsd") for x in (q, k, v))
    total = turned(g, g.b.reduce.sum(keys, axes=(2,), keepdims=True), "bhsd", "bhds")
    sums = g.b.nn.matmul(turned(g, keys, "bhsd", "bhds"), values)
    y = g.b.ew.div(g.b.nn.matmul(queries, sums), g.b.nn.matmul(queries, total))
    (node,) = [node for node in apply(g.module(y), "fuse").module.main.nodes if node.op == "nn.linear_attention"]
    assert node.attrs["map"] == "identity"


def masked(shape: tuple[int, ...]) -> Module:
    """Causal linear attention whose mask repeats products along axes of its own where its shape has more."""
    g = Graph({})
    q, k, v = g.input("q", 1, 5, 6), g.input("k", 1, 5, 6), g.input("v", 1, 5, 7)
    scores = g.b.nn.matmul(q, g.b.view.transpose(k, perm=(0, 2, 1)))
    mask = g.array("mask", np.broadcast_to(np.tri(5, dtype=bool), shape).copy())
    weights = g.b.ew.where(mask, scores, 0.0)
    weights = g.b.ew.div(weights, g.b.ew.add(g.b.reduce.sum(weights, axes=(2,), keepdims=True), 1e-3))
    return g.module(g.b.nn.matmul(weights, v))


@pytest.mark.parametrize(("shape", "found"), [((5, 5), True), ((1, 5, 5), True), ((2, 5, 5), False)])
def test_a_mask_may_repeat_products(shape: tuple[int, ...], found: bool) -> None:
    assert ("nn.linear_attention" in apply(masked(shape), "fuse").ops) == found


def test_joined_axes_stay_apart() -> None:
    """A reshape that cuts through an axis ends the contraction; one that joins whole axes does not."""
    g = Graph({})
    x = g.input("x", 2, 3, 4)
    joined, cut = g.b.view.reshape(x, shape=(6, 4)), g.b.view.reshape(x, shape=(4, 6))
    found = contraction(g.b.view.transpose(joined, perm=(1, 0)), {})
    assert found.factors[0].value is x and [label.size for label in found.free] == [4, 2, 3]
    assert contraction(cut, {}).factors[0].value is cut


def test_sums_of_what_is_repeated_are_left() -> None:
    g = Graph({})
    x = g.input("x", 3, 1)
    total = g.b.reduce.sum(g.b.view.expand(x, shape=(3, 4)), axes=(1,))
    assert contraction(total, {}).factors[0].value is total
    bits = g.b.ew.cast(g.input("m", 3, 1, dtype="bool"), dtype=DType.F32)
    assert contraction(g.b.ew.mul(x, bits), {}).order == ()


@pytest.mark.parametrize("squares", [14, 2000])
def test_long_products_end_in_values_that_stand_for_themselves(squares: int) -> None:
    """Squares of squares would be a product of 2^n factors."""
    g = Graph({})
    y = g.input("x", 4, 4)
    for _ in range(squares):
        y = g.b.nn.matmul(y, y)
    assert 2 < len(contraction(y, {}).factors) <= MOST_NODES
