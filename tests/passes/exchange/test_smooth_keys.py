"""Factors of keys' channels: where weights take them, which channels must share one, and what they are good for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from pass_graphs import Graph

from nomul.ir import interpreter
from nomul.ir.graph import Module, Node
from nomul.passes.base import Report
from nomul.passes.exchange.channel_sets import channel_sets
from nomul.passes.exchange_attention import ExchangeAttention
from nomul.passes.rule import NoMatch
from nomul.recipe import read_recipe

HEADS, GROUPS, SIZE, WIDTH, TOKENS = 4, 2, 8, 16, 24
RANDOM = np.random.default_rng(14)
START = RANDOM.bit_generator.state


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Each test has the same numbers, whatever ran before it."""
    RANDOM.bit_generator.state = START


Keywords = dict[str, Any]


def turned(g: Graph, x: Any, kind: str) -> Any:
    """Rotary positions of x [1, TOKENS, H, SIZE] as one op, as slices of halves, or of neighbours."""
    angles = RANDOM.uniform(-3, 3, (1, TOKENS, SIZE // 2)).astype(np.float32)
    cos, sin = (g.array(f"{name}.{x.name}", function(angles)) for name, function in (("c", np.cos), ("s", np.sin)))
    if kind != "slices":
        return g.b.nn.rotary(x, cos, sin, interleaved=kind == "interleaved")
    c, s = (g.b.view.reshape(one, shape=[1, TOKENS, 1, SIZE // 2]) for one in (cos, sin))
    cc, ss = (g.b.view.concat(one, one, axis=3) for one in (c, s))
    first = g.b.view.slice(x, axis=3, stop=SIZE // 2)
    second = g.b.view.slice(x, axis=3, start=SIZE // 2, stop=SIZE)
    half = g.b.view.concat(g.b.ew.neg(second), first, axis=3)
    return g.b.ew.add(g.b.ew.mul(x, cc), g.b.ew.mul(half, ss))


def model(kind: str = "slices", merged: bool = False, normed: bool = False, outlier: float = 0.0) -> Module:
    """x -> queries, keys and values, rotary positions, attention. outlier: of a channel of the first key's bias."""
    g = Graph()
    x = g.input("x", 1, TOKENS, WIDTH)
    counts, parts = (HEADS, GROUPS, GROUPS), []
    bias = [RANDOM.standard_normal(count * SIZE).astype(np.float32) for count in counts]
    bias[1][3] += outlier
    if merged:
        y = g.b.nn.linear(x, g.weight("w", sum(counts) * SIZE, WIDTH), g.array("b", np.concatenate(bias)))
        ends = np.cumsum((0, *counts)) * SIZE
        flat = [g.b.view.slice(y, axis=2, start=int(a), stop=int(b)) for a, b in pairwise(ends)]
    else:
        names = "qkv"
        flat = [
            g.b.nn.linear(x, g.weight(f"w{name}", count * SIZE, WIDTH), g.array(f"b{name}", one))
            for name, count, one in zip(names, counts, bias, strict=True)
        ]
    for count, one in zip(counts, flat, strict=True):
        parts.append(g.b.view.reshape(one, shape=[1, TOKENS, count, SIZE]))
    if normed:
        parts[:2] = [g.b.nn.rms_norm(one, g.weight(f"g{n}", SIZE), eps=1e-6) for n, one in enumerate(parts[:2])]
    if kind:
        parts[:2] = [turned(g, one, kind) for one in parts[:2]]
    return g.module(g.b.nn.attention(*parts, scale=0.02))


def node_of(module: Module) -> Node:
    return next(node for node in module.main.nodes if node.op == "nn.attention")


def drawn() -> np.ndarray:
    return RANDOM.standard_normal((1, TOKENS, WIDTH)).astype(np.float32)


def exchanged(module: Module, calib: Any = (), **options: Any) -> tuple[Module, str]:
    """With the attention of `options`, and what was told."""
    out, report = module.clone(), Report()
    recipe = read_recipe({"attention": [{"form": "softmax", **options}]})
    ExchangeAttention(recipe, [(x,) for x in calib]).run(out, report)
    return out, " ".join(report.notes)


CASES: list[Keywords] = [
    {"kind": "slices"},
    {"kind": "halves"},
    {"kind": "interleaved"},
    {"kind": ""},
    {"kind": "slices", "merged": True},
    {"kind": "halves", "normed": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_factors_of_the_sets_leave_results_as_they_are(case: Keywords) -> None:
    module, x = model(**case), drawn()
    (before,) = interpreter.run(module, x)
    found = channel_sets(module.main, node_of(module))
    drawn_factors = 2 ** RANDOM.uniform(-3, 3, found.sets.size)
    found.absorb(module, drawn_factors[found.sets])
    (after,) = interpreter.run(module, x)
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize(("kind", "distance"), [("slices", SIZE // 2), ("halves", SIZE // 2), ("interleaved", 1)])
def test_pairs_that_are_turned_share_a_factor(kind: str, distance: int) -> None:
    module = model(kind)
    sets = channel_sets(module.main, node_of(module)).sets
    first = np.arange(0, SIZE, 2) if distance == 1 else np.arange(SIZE // 2)
    np.testing.assert_array_equal(sets[:, first], sets[:, first + distance])
    assert len(np.unique(sets)) == GROUPS * SIZE // 2


def test_heads_share_the_factors_of_a_norms_gamma() -> None:
    module = model("", normed=True)
    found = channel_sets(module.main, node_of(module))
    assert sorted(weight.name for weight in found.labels) == ["g0", "g1"]
    np.testing.assert_array_equal(found.sets, np.broadcast_to(np.arange(SIZE), (GROUPS, SIZE)))


@pytest.mark.parametrize("options", [{"scores": "i8"}, {"keys_values": "i8"}, {"keys_values": "i4"}], ids=str)
@pytest.mark.parametrize("merged", [False, True])
def test_an_outlier_costs_less(options: Keywords, merged: bool) -> None:
    module = model(merged=merged, outlier=40.0)
    calib, x = [drawn() for _ in range(3)], drawn()
    (wanted,) = interpreter.run(module, x)
    plain, _ = exchanged(module, calib, **options)
    smooth, told = exchanged(module, calib, **options, smooth="keys")
    assert "make the error of scores" in told
    error, least = (np.square(interpreter.run(one, x)[0] - wanted).mean() for one in (plain, smooth))
    assert least < 0.7 * error
    node_of(smooth).attrs = dict(node_of(smooth).attrs, scores="f32", keys_values="f32")
    np.testing.assert_allclose(interpreter.run(smooth, x)[0], wanted, atol=1e-5)


def test_what_cannot_be_is_told() -> None:
    module = model()
    assert "which come from calibration data" in exchanged(module, scores="i8", smooth="keys")[1]
    module.main.returns.append(node_of(module).args[1])
    with pytest.raises(NoMatch, match="is an output"):
        channel_sets(module.main, node_of(module))
    assert "without factors: " in exchanged(module, [drawn()], scores="i8", smooth="keys")[1]


def test_other_readers_of_keys_are_in_the_way() -> None:
    g = Graph()
    x = g.input("x", 1, TOKENS, WIDTH)
    keys = g.b.view.reshape(g.b.nn.linear(x, g.weight("w", WIDTH, WIDTH)), shape=[1, TOKENS, 2, SIZE])
    queries = g.b.view.reshape(g.b.nn.linear(x, g.weight("u", WIDTH, WIDTH)), shape=[1, TOKENS, 2, SIZE])
    module = g.module(g.b.nn.attention(queries, keys, keys, scale=0.2))
    with pytest.raises(NoMatch, match=r"reads .* too"):
        channel_sets(module.main, node_of(module))
    module = g.module(g.b.nn.attention(keys, keys, queries, scale=0.2))
    with pytest.raises(NoMatch, match="makes keys and queries"):
        channel_sets(module.main, module.main.nodes[-1])


def test_it_is_for_rounded_keys_only() -> None:
    with pytest.raises(Exception, match="smooth is for scores"):
        read_recipe({"attention": [{"form": "softmax", "smooth": "keys"}]})
