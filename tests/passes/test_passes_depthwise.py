"""Depthwise convolutions and recipes: what rules for many layers give them, and rules for them alone; calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pass_graphs import Graph, built

from nomul.ir import interpreter
from nomul.ir.graph import Module, Node, Value
from nomul.ir.verifier import verify
from nomul.passes.base import Report
from nomul.passes.calibrate import collect, input_rows
from nomul.passes.encode import Encode
from nomul.passes.layers import layers_of
from nomul.recipe import read_recipe

CHANNELS = 6


def network(size: int) -> Module:
    """A depthwise convolution between two others."""

    def build(g: Graph) -> Value:
        x = g.b.nn.conv2d(g.input("x", 2, 3, 9, 9), g.weight("first", CHANNELS, 3, 1, 1))
        kernels, bias = g.weight("kernels", CHANNELS, 1, size, size), g.weight("bias", CHANNELS)
        x = g.b.nn.conv2d(x, kernels, bias, groups=CHANNELS, pads=(size // 2,) * 4)
        return g.b.nn.conv2d(x, g.weight("last", 4, CHANNELS, 1, 1))

    return built(build)


def encoded(module: Module, *rules: dict[str, Any], batches: Any = (), strict: bool = False) -> tuple[Node, Report]:
    """The depthwise convolution after the pass."""
    copy, report = module.clone(), Report()
    Encode(read_recipe({"layers": list(rules), "strict": strict}), batches).run(copy, report)
    verify(copy)
    (node,) = [node for node in copy.main.nodes if node.attrs.get("groups", 1) > 1]
    return node, report


@pytest.mark.parametrize(
    ("size", "rule", "encoding", "act"),
    [
        (3, {"weights": "int8", "act": "i8"}, "int8", "f32"),
        (5, {"weights": "int8", "act": "i8"}, "int8", "i8"),
        (5, {"weights": "int8"}, "int8", "f32"),
        (3, {"weights": "int8<group=64>", "role": "conv"}, "int8", "f32"),
        (7, {"weights": "ternary<planes=2, group=128>", "act": "i8"}, "int8", "i8"),
        (3, {"weights": "int4"}, "int8", "f32"),
        (3, {"weights": "f16"}, "f16", "f32"),
        (3, {"weights": "int4<group=32>", "role": "depthwise", "act": "i8"}, "int4", "i8"),
        (5, {"weights": "ternary", "role": "depthwise", "act": "i8"}, "ternary", "i8"),
    ],
)
def test_what_a_rule_gives(size: int, rule: dict[str, Any], encoding: str, act: str) -> None:
    node, report = encoded(network(size), rule)
    assert node.args[1] is not None
    assert (str(node.args[1].type.encoding), node.attrs["act"]) == (encoding, act)
    stands_in = encoding != rule["weights"].split("<")[0]
    told = [note for note in report.notes if note.startswith("@kernels is stored as int8, not ")]
    assert bool(told) == stands_in


def test_roles_and_strict_recipes() -> None:
    module = network(3)
    assert {layer.weight.name: layer.roles for layer in layers_of(module)}["kernels"] == ("conv", "depthwise")
    with pytest.raises(Exception, match="@kernels cannot be stored as int4: only rules with role 'depthwise'"):
        encoded(module, {"weights": "int4"}, strict=True)


@pytest.mark.parametrize("act", ["i8", "i8-static"])
def test_calibration_sees_windows_of_single_channels(act: str) -> None:
    """The bias stays: channels have mean errors of their own."""
    module = network(5)
    batches = [(np.random.default_rng(seed).standard_normal((2, 3, 9, 9)).astype(np.float32),) for seed in (0, 1)]
    (layer,) = [layer for layer in layers_of(module) if "depthwise" in layer.roles]
    found = collect(module, [layer], batches, lambda number: None)["kernels"]
    assert found.hessian.shape == (25, 25) and found.rows == 2 * 2 * 81 * CHANNELS
    node, _ = encoded(module, {"weights": "int8", "fitter": "gptq", "act": act}, batches=batches)
    assert node.attrs["act"] == act and (node.attrs["act_scale"] > 0) == (act == "i8-static")
    np.testing.assert_array_equal(node.args[2].array(), module.weights["bias"].array())  # type: ignore[union-attr]


def test_windows_are_what_kernels_meet() -> None:
    """Rows of windows times a channel's kernel are that channel of the result."""
    module = network(3)
    (layer,) = [layer for layer in layers_of(module) if "depthwise" in layer.roles]
    (node,) = layer.products
    x = np.random.default_rng(3).standard_normal((2, CHANNELS, 9, 9)).astype(np.float32)
    rows = np.concatenate(list(input_rows(node, x)))
    kernels = module.weights["kernels"].array().reshape(CHANNELS, 9)
    sums = np.einsum("npck,ck->ncp", rows.reshape(2, 81, CHANNELS, 9), kernels).reshape(x.shape)
    operands = (x, module.weights["kernels"].array(), module.weights["bias"].array())
    (expected,) = interpreter.evaluate_node(node, operands, {})
    np.testing.assert_allclose(sums + operands[2][:, None, None], expected, rtol=1e-4, atol=1e-5)
