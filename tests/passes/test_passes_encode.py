"""Recipes: which weights get which encoding, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Graph, apply, built

from nomul.ir import interpreter
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.passes.encode import Encode, parse_choice
from nomul.passes.fit import all_fitters


def network(g: Graph) -> Value:
    x = g.input("x", "B", 4, 6, 6)
    x = g.b.nn.conv2d(x, g.weight("conv.weight", 8, 4, 3, 3), g.weight("conv.bias", 8))
    x = g.b.nn.conv2d(x, g.weight("depthwise.weight", 8, 1, 3, 3), groups=8)
    rows = g.b.reduce.mean(x, axes=(2, 3))
    return g.b.nn.linear(g.b.nn.linear(rows, g.weight("l1.weight", 6, 8)), g.weight("l2.weight", 4, 6))


def encoded(recipe: dict[str, str]) -> dict[str, str]:
    module = apply(built(network), Encode(recipe)).module
    return {name: str(w.type.encoding) for name, w in module.weights.items() if w.type.encoding}


def test_the_first_pattern_that_matches_decides() -> None:
    assert encoded({"l2.*": "f32", "l*": "bf16", "*": "f16"}) == {"conv.weight": "f16", "l1.weight": "bf16"}
    assert encoded({}) == {}


def test_biases_and_grouped_convolutions_stay() -> None:
    assert set(encoded({"*": "f16"})) == {"conv.weight", "l1.weight", "l2.weight"}


def test_a_weight_that_another_op_reads_stays() -> None:
    def tied(g: Graph) -> Value:
        table = g.weight("table", 9, 4)
        return g.b.nn.linear(g.b.index.gather(table, g.input("ids", "S", dtype="i64")), table)

    module = built(tied)
    outcome = apply(module, Encode({"*": "f16"}))
    assert outcome.module.weights["table"].type.encoding is None


def test_results_stay_close() -> None:
    module = built(network)
    out = apply(module, Encode({"*": "f16"})).module
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    (before,), (after,) = interpreter.run(module, x), interpreter.run(out, x)
    assert 0 < np.abs(before - after).max() < 1e-2 * np.abs(before).max()


def test_equal_encodings_are_merged_and_different_ones_are_not() -> None:
    def layer(g: Graph) -> Value:
        x = g.input("x", "B", "S", 8)
        parts = [g.b.view.reshape(g.b.nn.linear(x, g.weight(name, 8, 8)), shape=("B", "S", 2, 4)) for name in "qkv"]
        return g.b.nn.attention(*parts, scale=0.5)

    out = apply(built(layer), Encode({"v": "bf16", "*": "f16"}), "merge_linears").module
    assert {name: str(w.type.encoding) for name, w in out.weights.items()} == {"q_k": "f16", "v": "bf16"}


def failure(module: Module, recipe: dict[str, str]) -> NomulError:
    with pytest.raises(NomulError) as error:
        apply(module, Encode(recipe))
    return error.value


@pytest.mark.parametrize(
    ("text", "words"),
    [("f17", "there is no encoding 'f17'"), ("f16<bits=3>", "bits"), ("f16 by magic", "there is no fitter 'magic'")],
)
def test_unknown_names_are_refused(text: str, words: str) -> None:
    error = failure(built(network), {"*": text})
    assert error.code == "NM457"
    assert words in str(error)
    assert len(error.problems) == 3


def test_a_weight_outside_the_range_is_named() -> None:
    def large(g: Graph) -> Value:
        return g.b.nn.linear(g.input("x", "S", 2), g.array("huge", np.float32([[1e6, 0]])))

    assert "@huge cannot be stored as f16: a weight is too large" in str(failure(built(large), {"*": "f16"}))


def test_fitters_are_found_and_named_in_recipes() -> None:
    assert "round_to_nearest" in all_fitters()
    encoding, fitter = parse_choice("bf16 by round_to_nearest")
    assert (str(encoding), fitter) == ("bf16", "round_to_nearest")
