"""Mean errors of outputs go into biases and betas, in order of execution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pass_graphs import Graph, built

from nomul.ir import interpreter
from nomul.ir.graph import Module, Node, Value
from nomul.passes.base import Report
from nomul.passes.encode import Encode
from nomul.recipe import read_recipe

BATCHES = [[np.random.default_rng(seed).standard_normal((3, 9, 16)).astype(np.float32) + 0.5] for seed in range(4)]


def network(g: Graph) -> Value:
    """A layer without a bias, a convolution of its result, a norm, a layer with a bias."""
    x = g.b.ew.relu(g.b.nn.linear(g.input("x", "B", "S", 16), g.weight("w1", 32, 16)))
    image = g.b.view.reshape(x, shape=("B", 1, "S", 32))
    image = g.b.nn.conv2d(image, g.weight("c", 4, 1, 1, 1))
    rows = g.b.view.reshape(image, shape=("B", "S", 128))
    rows = g.b.nn.layer_norm(rows, g.weight("gamma", 128), g.weight("beta", 128))
    return g.b.nn.linear(rows, g.weight("w2", 8, 128), g.weight("b2", 8))


def outputs(module: Module) -> dict[str, np.ndarray]:
    """By op, all results on the data, channels last."""
    found: dict[str, list[np.ndarray]] = {}

    def observe(node: Node, results: list[np.ndarray]) -> None:
        if node.op in ("nn.linear", "nn.conv2d", "nn.layer_norm"):
            last = np.moveaxis(results[0], 1, -1) if node.op == "nn.conv2d" else results[0]
            found.setdefault(node.results[0].name, []).append(last.reshape(-1, last.shape[-1]))

    for batch in BATCHES:
        interpreter.run(module, *batch, observer=observe)
    return {name: np.concatenate(rows) for name, rows in found.items()}


def encoded(module: Module, correct: bool) -> Module:
    recipe = replace(read_recipe({"*": "ternary<group=16> by round_to_nearest"}), correct_means=correct)
    copy = module.clone()
    Encode(recipe, BATCHES).run(copy, Report())
    return copy


def test_every_layer_and_norm_has_the_mean_of_the_float_model() -> None:
    module = built(network)
    plain, without, corrected = (outputs(m) for m in (module, encoded(module, False), encoded(module, True)))
    for name, rows in plain.items():
        size = np.abs(rows.mean(axis=0)).max()
        assert np.allclose(corrected[name].mean(axis=0), rows.mean(axis=0), atol=1e-4 * size), name
        assert np.abs(without[name].mean(axis=0) - rows.mean(axis=0)).max() > 0.01 * size, name
    last = list(plain)[-1]
    errors = [np.square(found[last] - plain[last]).sum() for found in (without, corrected)]
    assert errors[1] < errors[0]


def test_layers_without_a_bias_get_one() -> None:
    out = encoded(built(network), True)
    assert {"w1.bias", "c.bias", "b2"} <= set(out.weights)


def test_it_needs_calibration_data() -> None:
    recipe = replace(read_recipe("int4"), correct_means=True)
    assert recipe.needs_calibration
