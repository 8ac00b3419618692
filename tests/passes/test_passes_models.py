"""Whole layers as exporters write them go through all phases: counts of kernels, results against the interpreter."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import numpy as np
import pytest
from pass_graphs import Graph

from nomul.ir.dim import Dim
from nomul.ir.graph import Module, Value
from nomul.ir.types import DType
from nomul.passes.encode import Encode
from nomul.passes.runner import PassRunner
from nomul.phases import phases
from nomul.recipe import read_recipe

B, S = Dim.of("B"), Dim.of("S")
HEADS, SIZE, WIDTH = 4, 6, 24


def linear(g: Graph, x: Value, name: str, outputs: int) -> Value:
    """MatMul with a [K, N] weight and Add, as torch's ONNX exporter writes nn.Linear."""
    return g.b.ew.add(g.weight(f"{name}.bias", outputs), g.b.nn.matmul(x, g.weight(name, int(x.shape[-1]), outputs)))


def layer_norm(g: Graph, x: Value, name: str) -> Value:
    """As exporters below opset 17 write nn.LayerNorm."""
    b = g.b
    centred = b.ew.sub(x, b.reduce.mean(x, axes=(2,), keepdims=True))
    deviation = b.ew.sqrt(b.ew.add(b.reduce.mean(b.ew.pow(centred, 2.0), axes=(2,), keepdims=True), 1e-12))
    normed = b.ew.div(centred, deviation)
    return b.ew.add(b.ew.mul(normed, g.weight(f"{name}.weight", WIDTH)), g.weight(f"{name}.bias", WIDTH))


def gelu(g: Graph, x: Value) -> Value:
    return g.b.ew.mul(g.b.ew.mul(x, g.b.ew.add(g.b.ew.erf(g.b.ew.div(x, sqrt(2))), 1.0)), 0.5)


def bert_layer(g: Graph, x: Value, mask: Value, name: str) -> Value:
    def heads(part: str, perm: tuple[int, ...]) -> Value:
        split = g.b.view.reshape(linear(g, x, f"{name}.{part}", WIDTH), shape=(B, S, HEADS, SIZE))
        return g.b.view.transpose(split, perm=perm)

    q, k, v = heads("query", (0, 2, 1, 3)), heads("key", (0, 2, 3, 1)), heads("value", (0, 2, 1, 3))
    scores = g.b.ew.add(g.b.ew.div(g.b.nn.matmul(q, k), sqrt(SIZE)), mask)
    context = g.b.view.transpose(g.b.nn.matmul(g.b.nn.softmax(scores, axis=3), v), perm=(0, 2, 1, 3))
    out = linear(g, g.b.view.reshape(context, shape=(B, S, WIDTH)), f"{name}.output", WIDTH)
    x = layer_norm(g, g.b.ew.add(out, x), f"{name}.norm1")
    hidden = gelu(g, linear(g, x, f"{name}.up", 2 * WIDTH))
    return layer_norm(g, g.b.ew.add(linear(g, hidden, f"{name}.down", WIDTH), x), f"{name}.norm2")


def bert(layers: int) -> Module:
    g = Graph({"B": (1, 3), "S": (1, 9)})
    ids, visible = g.input("ids", "B", "S", dtype="i64"), g.input("visible", "B", "S", dtype="i64")
    x = g.b.index.gather(g.weight("table", 50, WIDTH), ids)
    kept = g.b.ew.cast(g.b.view.reshape(visible, shape=(B, 1, 1, S)), dtype=DType.F32)
    mask = g.b.ew.mul(g.b.ew.sub(1.0, kept), -10000.0)
    for index in range(layers):
        x = bert_layer(g, x, mask, f"layer.{index}")
    return g.module(x)


def compiled(module: Module, recipe: dict[str, str] | None = None) -> tuple[Module, Counter[str], PassRunner]:
    runner = PassRunner(check=True)
    out = runner.run(module, phases(Encode(read_recipe(recipe))))
    return out, Counter(node.op for func in out.funcs.values() for node in func.nodes), runner


def test_a_bert_layer_is_seven_kernels() -> None:
    _, few, _ = compiled(bert(1))
    out, ops, _ = compiled(bert(2))
    assert ops["call"] - few["call"] == 7  # qkv, attention, output, norm, up, down, norm
    assert [ops[op] for op in ("nn.linear", "nn.attention", "nn.layer_norm", "ew.gelu")] == [8, 2, 4, 2]
    leftover = ("nn.matmul", "nn.softmax", "view.transpose", "ew.erf", "reduce.mean", "ew.sqrt")
    assert not any(ops[op] for op in leftover)
    assert {node.op for node in out.main.nodes} == {"call", "view.reshape"}


def test_all_phases_are_idempotent() -> None:
    out, ops, _ = compiled(bert(1))
    out.after = ""
    again, same, runner = compiled(out)
    assert same == ops
    assert not any(record.changed for record in runner.records)
    assert len(again.funcs) == len(out.funcs)


@pytest.mark.parametrize("phase", ["clean", "fuse", "merge", "layout"])
def test_a_module_resumes_behind_any_phase(phase: str) -> None:
    _, whole, _ = compiled(bert(1))
    middle = PassRunner().run(bert(1), phases(), until=phase)
    _, resumed, _ = compiled(middle)
    assert resumed == whole


def test_a_recipe_reaches_the_merged_weights() -> None:
    out, _, _ = compiled(bert(1), {"layer.*": "f16"})
    encoded = {name for name, weight in out.weights.items() if weight.type.encoding}
    assert encoded == {f"layer.0.{part}" for part in ("query_key_value", "output", "up", "down")}


def test_every_value_keeps_a_source_layer() -> None:
    out, _, _ = compiled(bert(1))
    assert all(node.loc == "layer" for func in out.funcs.values() for node in func.nodes)


def test_residual_convolutions_need_one_kernel_each() -> None:
    def block(g: Graph, x: Value, name: str) -> Value:
        w, norm = g.weight(f"{name}.weight", 4, 4, 3, 3), [g.weight(f"{name}.{part}", 4) for part in "gbm"]
        y = g.b.nn.conv2d(x, w, pads=(1, 1, 1, 1))
        y = g.b.nn.batch_norm(y, *norm, g.array(f"{name}.variance", np.float32([1, 2, 0.5, 1.5])))
        return g.b.ew.relu(g.b.ew.add(y, x))

    g = Graph({"B": (1, 2), "W": (4, 9)})
    x = g.input("x", "B", 4, 8, "W")
    _, ops, _ = compiled(g.module(g.b.reduce.mean(block(g, block(g, x, "a"), "b"), axes=(2, 3))))
    assert ops["call"] == 4  # transpose, two convolutions, mean
