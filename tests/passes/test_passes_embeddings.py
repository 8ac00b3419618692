"""Embeddings in recipes: which gathers are embeddings, what tables are stored as, and those that a head shares."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Graph, apply, built

from nomul.ir import interpreter
from nomul.ir.encodings import get_encoding
from nomul.ir.graph import Module, Value
from nomul.passes.base import Report
from nomul.passes.choice import Recipe, Rule
from nomul.passes.encode import Encode
from nomul.passes.layers import layers_of
from nomul.passes.transforms import read_transformation
from nomul.passes.transforms.rotate import Rotate
from nomul.recipe import read_recipe

IDS = np.array([[0, 8, -1], [3, 3, 4]])
INT8 = get_encoding("int8")


def embedding(g: Graph) -> Value:
    rows = g.b.index.gather(g.weight("table", 9, 8), g.input("ids", "B", "S", dtype="i64"))
    return g.b.nn.linear(g.b.ew.relu(rows), g.weight("w", 4, 8))


def tied(g: Graph) -> Value:
    """A table that the head multiplies by, behind another layer."""
    table = g.weight("table", 9, 8)
    rows = g.b.index.gather(table, g.input("ids", "B", "S", dtype="i64"))
    return g.b.nn.linear(g.b.nn.linear(rows, g.weight("w", 8, 8)), table)


def stored(module: Module, item: Encode) -> dict[str, str]:
    outcome = apply(module, item).module
    return {name: str(weight.type.encoding) for name, weight in outcome.weights.items()}


def test_tables_get_what_the_recipe_says_of_embeddings() -> None:
    module, int4 = built(embedding), get_encoding("int4")
    assert stored(module, Encode(Recipe((Rule(encoding=int4),)))) == {"table": "None", "w": "int4"}
    assert stored(module, Encode(Recipe((Rule(encoding=int4),), embeddings=INT8))) == {"table": "int8", "w": "int4"}
    assert stored(module, Encode(Recipe((Rule("table"), Rule(encoding=int4)), embeddings=INT8)))["table"] == "None"
    assert stored(module, Encode(Recipe((Rule(encoding=int4, role="embedding"),), embeddings=INT8)))["table"] == "int4"
    assert stored(module, Encode(read_recipe("int8"))) == {"table": "int8", "w": "int8"}


def test_rows_of_an_encoded_table_are_rows_of_the_unpacked_one() -> None:
    module = apply(built(embedding), Encode(Recipe(embeddings=INT8))).module
    rows = module.weights["table"].array()[IDS]
    assert not np.array_equal(module.weights["table"].array(), built(embedding).weights["table"].array())
    expected = np.maximum(rows, 0) @ module.weights["w"].array().T
    np.testing.assert_allclose(interpreter.run(module, IDS)[0], expected, rtol=1e-5)


def test_calibration_data_does_not_go_to_tables() -> None:
    module = apply(built(embedding), Encode(read_recipe("int8"), [[IDS]])).module
    plain = apply(built(embedding), Encode(read_recipe("int8"))).module
    for name, field in module.weights["table"].fields.items():
        np.testing.assert_array_equal(field, plain.weights["table"].fields[name])
    assert module.main.nodes[-1].attrs["act"] == "i8"


def test_a_shared_table_is_the_head() -> None:
    (table, _) = layers_of(built(tied))
    assert table.roles == ("embedding", "head", "linear") and table.reason is None and len(table.products) == 1
    module = built(tied)
    module.source = {"name": "tied"}
    found = apply(module, Encode(read_recipe("ternary2"), [[IDS]])).module
    assert str(found.weights["table"].type.encoding) == "int8"
    head, gather = found.main.nodes[-1], found.main.nodes[0]
    assert head.attrs["act"] == "i8" and "act" not in gather.attrs and gather.args[0] is head.args[1]
    acts = {fact["name"]: fact["act"] for fact in found.source["encoded"]}
    assert acts == {"table": "i8", "w": "i8"}


@pytest.mark.parametrize("form", ["halves", "rotary", "axis", "vector"])
def test_gathers_that_are_no_embeddings(form: str) -> None:
    def graph(g: Graph) -> Value:
        ids, x = g.input("ids", "B", "S", dtype="i64"), g.input("x", "B", "S", 2, 8)
        if form == "axis":
            return g.b.index.gather(g.weight("table", 9, 8), ids, axis=1)
        if form == "vector":
            return g.b.index.gather(g.weight("table", 9), ids)
        angles = g.b.index.gather(g.weight("table", 9, 4), ids)
        if form == "rotary":
            return g.b.nn.rotary(x, angles, angles)
        both = g.b.view.concat(angles, angles, axis=2)
        return g.b.ew.mul(x, g.b.view.reshape(both, shape=(*ids.shape, 1, 8)))

    assert layers_of(built(graph)) == []


def test_a_mask_may_multiply_an_embedding() -> None:
    def graph(g: Graph) -> Value:
        rows = g.b.index.gather(g.weight("table", 9, 8), g.input("ids", "B", "S", dtype="i64"))
        return g.b.ew.mul(g.b.ew.mul(rows, 2.0), g.input("mask", "B", "S", 1))

    assert [layer.roles for layer in layers_of(built(graph))] == [("embedding",)]


def test_a_table_has_no_transforms() -> None:
    module = built(embedding)
    rule = read_recipe("int8").rules[0]
    asked = Rule("table", rule.encoding, role="embedding", transforms=(read_transformation("rotate"),))
    report = Report()
    Rotate(Recipe((asked,))).run(module.clone(), report)
    assert report.notes == ["@table stays without rotate: its rows are looked up"]
