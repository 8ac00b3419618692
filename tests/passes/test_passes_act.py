"""Rewrites of linear layers keep how the layers take their input."""

from __future__ import annotations

from pass_graphs import Graph, apply, built

from nomul.ir.dim import Dim
from nomul.ir.encodings import get_encoding
from nomul.ir.graph import Value
from nomul.passes.choice import Recipe, Rule
from nomul.passes.encode import Encode


def test_a_bias_moves_into_a_layer_with_quantised_input() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 4, 8), act="i8-static", act_scale=0.5)
        return g.b.ew.add(y, g.weight("b", 4))

    out = apply(built(make), "fuse")
    assert out.ops == ["nn.linear"]
    assert out.result.attrs == {"act": "i8-static", "act_scale": 0.5, "act_levels": 127}


def test_a_factor_moves_into_a_layer_with_quantised_input() -> None:
    def make(g: Graph) -> Value:
        return g.b.ew.mul(g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 4, 8), act="i8"), 0.5)

    out = apply(built(make), "fuse")
    assert "ew.mul" not in [node.op for node in out.module.main.nodes if node.result.shape[0] == Dim.of("S")]
    assert out.result.attrs["act"] == "i8"


def test_only_layers_that_take_their_input_alike_are_merged() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "B", "S", 8)
        acts = {"q": "i8", "k": "i8", "v": "f32"}
        layers = [g.b.nn.linear(x, g.weight(name, 8, 8), act=act) for name, act in acts.items()]
        heads = [g.b.view.reshape(y, shape=(Dim.of("B"), Dim.of("S"), Dim.of(2), Dim.of(4))) for y in layers]
        return g.b.nn.attention(*heads, scale=0.5)

    out = apply(built(make), "merge_linears")
    linears = [node for node in out.module.main.nodes if node.op == "nn.linear"]
    assert sorted((int(node.result.shape[-1]), node.attrs["act"]) for node in linears) == [(8, "f32"), (16, "i8")]


def test_levels_of_a_recipe_reach_the_integers_and_their_product() -> None:
    rule = Rule(encoding=get_encoding("int8"), act="i8", levels=42)
    graph = built(lambda g: g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 4, 8)))
    out = apply(apply(graph, Encode(Recipe((rule,)))).module, "quantise_inputs")
    nodes = [(node.op, node.attrs["levels"]) for node in out.module.main.nodes]
    assert nodes == [("nn.quantise", 42), ("nn.quantised_linear", 42)]
