"""Blocks in torch: twins compute what the ops mean, errors have slopes, what has no gradient is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pass_graphs import Graph

from nomul.ir.graph import Node
from nomul.ir.interpreter import run
from nomul.ir.types import DType
from nomul.passes.blocks import blocks_of
from nomul.passes.fit_blocks import Sample

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from nomul.frontend.torch.blocks import TorchBlock  # noqa: E402 - needs torch
from nomul.frontend.torch.blocks.twin import changed_attributes, refusal, twin_of  # noqa: E402

sys.path.append(str(Path(__file__).parents[2] / "ir"))
import cases_attention  # noqa: E402 - the cases of all ops stand beside their tests
import cases_data  # noqa: E402
import cases_elementwise  # noqa: E402
import cases_nn  # noqa: E402
from cases import Case, evaluate, module_of  # noqa: E402

ALL = [*cases_elementwise.CASES, *cases_data.CASES, *cases_nn.CASES, *cases_attention.CASES]


def node_of(case: Case) -> Node:
    (node,) = module_of(case).main.nodes
    return node


def has_twin(case: Case) -> bool:
    node = node_of(case)
    return bool(node.args) and node.results[0].dtype is DType.F32 and refusal(node) is None


TWINS = [case for case in ALL if has_twin(case)]


def test_most_ops_that_layers_stand_between_have_twins() -> None:
    assert {case.op for case in TWINS} >= {
        "nn.linear", "nn.conv2d", "nn.matmul", "nn.attention", "nn.softmax", "nn.layer_norm", "nn.rms_norm",
        "nn.batch_norm", "nn.rotary", "ew.add", "ew.mul", "ew.gelu", "ew.silu", "ew.relu", "reduce.mean",
        "view.reshape", "view.transpose", "view.concat", "view.slice", "view.expand",
    }  # fmt: skip


@pytest.mark.parametrize("case", TWINS, ids=str)
def test_a_twin_is_the_op(case: Case) -> None:
    compute = twin_of(node_of(case))
    assert compute is not None
    operands = [None if array is None else torch.from_numpy(array.copy()) for array in case.operands]
    attrs = {name: int(value) if type(value).__name__ == "Dim" else value for name, value in attributes(case).items()}
    (expected,) = evaluate(case)
    given = compute(*operands, **attrs).numpy()
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5 * np.abs(expected[np.isfinite(expected)]).max())


def attributes(case: Case) -> dict:
    return {
        name: tuple(map(int, value)) if name in ("shape", "perm", "axes") else value
        for name, value in changed_attributes(node_of(case)).items()
    }


def residual() -> Graph:
    g = Graph({"B": (1, 9)})
    x = g.input("x", "B", 8)
    hidden = g.b.ew.gelu(g.b.nn.linear(x, g.weight("up", 16, 8), g.weight("b", 16)))
    g.result = g.b.ew.add(g.b.nn.linear(hidden, g.weight("down", 8, 16)), x)  # type: ignore[attr-defined]
    return g


def test_slopes_are_those_of_the_error() -> None:
    g = residual()
    module = g.module(g.result)  # type: ignore[attr-defined]
    layers = [node for node in module.main.nodes if node.op == "nn.linear"]
    (block,) = blocks_of(module.main, layers)
    assert TorchBlock.refusal(block) is None
    x = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    (plain,) = run(module, x)
    target = plain + np.float32(0.1)
    error = TorchBlock(block, [Sample({module.main.params[0]: x}, [target], {"B": 5})])
    arrays = {name: module.weights[name].array() for name in ("up", "down", "b")}
    value, slopes = error(arrays, 0)
    assert value == pytest.approx(float(((plain - target) ** 2).sum() / (target**2).sum()), rel=1e-4)
    assert error(arrays, 0, slopes=False) == (pytest.approx(value), {})
    for name, array in arrays.items():
        change = np.random.default_rng(3).standard_normal(array.shape).astype(np.float32) * 1e-3
        ends = [error({**arrays, name: array + sign * change}, 0, slopes=False)[0] for sign in (1, -1)]
        assert (ends[0] - ends[1]) / 2 == pytest.approx(float(np.vdot(slopes[name], change)), rel=0.02)


def test_what_has_no_gradient_is_refused() -> None:
    g = Graph({"B": (1, 9)})
    first = g.b.nn.linear(g.input("x", "B", 8), g.weight("w", 8, 8))
    second = g.b.nn.linear(first, g.weight("v", 8, 8))
    module = g.module(g.b.ew.add(g.b.reduce.cumsum(second, axis=1), first))
    layers = [node for node in module.main.nodes if node.op == "nn.linear"]
    reasons = [TorchBlock.refusal(block) for block in blocks_of(module.main, layers)]
    assert reasons == [None, "reduce.cumsum has no gradient here"]
