"""Statistics of layer inputs: rows that mean what the layer computes, sums over batches, waves that fit into memory."""

from __future__ import annotations

import numpy as np
import pytest
from pass_graphs import Graph

from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.passes.calibrate import ROWS, collect, input_rows, waves
from nomul.passes.layers import layers_of


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("options", [{}, {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2)}])
def test_rows_of_a_convolution_times_its_weights_are_its_results(layout: str, options: dict) -> None:
    g = Graph()
    shape = (2, 3, 9, 8) if layout == "nchw" else (2, 9, 8, 3)
    result = g.b.nn.conv2d(g.input("x", *shape), g.weight("w", 5, 3, 3, 2), layout=layout, **options)
    module = g.module(result)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (wanted,) = interpreter.run(module, x)
    rows = np.concatenate(list(input_rows(module.main.nodes[0], x)))
    if layout == "nchw":
        wanted = wanted.transpose(0, 2, 3, 1)
    weights = module.weights["w"].array().reshape(5, -1)
    assert np.allclose(rows @ weights.T, wanted.reshape(-1, 5), atol=1e-4)


def branches() -> Module:
    """Two layers of one input, one of another, and one weight that is used twice."""
    g = Graph({"B": (1, 99)})
    x = g.input("x", "B", 8)
    first = g.b.nn.linear(x, g.weight("a", 6, 8))
    shared = g.weight("shared", 6, 6)
    both = g.b.ew.add(first, g.b.nn.linear(x, g.weight("b", 6, 8)))
    return g.module(g.b.nn.linear(g.b.nn.linear(both, shared), shared))


def test_statistics_are_means_over_all_batches() -> None:
    module, generator = branches(), np.random.default_rng(0)
    batches = [[generator.standard_normal((count, 8)).astype(np.float32)] for count in (5, 12)]
    done: list[int] = []
    found = collect(module, layers_of(module), batches, done.append)
    x = np.concatenate([batch[0] for batch in batches]).astype(np.float64)
    assert np.allclose(np.diag(found["a"].hessian), np.diag(x.T @ x / 17), atol=1e-5)
    assert np.allclose(found["b"].mean, x.mean(axis=0), atol=1e-6)
    assert np.allclose(found["a"].covariance, found["a"].hessian - np.outer(x.mean(axis=0), x.mean(axis=0)), atol=1e-5)
    assert (found["a"].rows, found["a"].largest) == (17, pytest.approx(np.abs(x).max()))
    assert found["shared"].rows == 34
    assert done == [1, 2]


@pytest.mark.parametrize("rows", [1, 7])
def test_inputs_that_do_not_vary_have_no_covariance(rows: int) -> None:
    module = branches()
    batch = np.repeat(np.random.default_rng(3).standard_normal((1, 8)).astype(np.float32), rows, axis=0)
    found = collect(module, layers_of(module), [[batch]], lambda _: None)
    assert not found["a"].covariance.any() and found["a"].hessian.any()


def test_what_inputs_have_in_common_by_chance_does_not_count() -> None:
    module, generator = branches(), np.random.default_rng(4)
    common = generator.standard_normal((20, 1))
    apart = ~np.eye(8, dtype=bool)
    kept = {}
    for name, share in (("common", 3.0), ("none", 0.0)):
        x = (share * common + generator.standard_normal((20, 8))).astype(np.float32)
        statistics = collect(module, layers_of(module), [[x[:12]], [x[12:]]], lambda _: None)["a"]
        seen = np.cov(x.T, bias=True)
        assert np.allclose(np.diag(statistics.covariance), np.diag(seen), atol=1e-5)
        kept[name] = np.linalg.norm(statistics.covariance[apart]) / np.linalg.norm(seen[apart])
    assert kept["common"] > 0.85 and kept["none"] < 0.4


def test_a_long_input_is_thinned_out() -> None:
    g = Graph({"B": (1, 99999)})
    module = g.module(g.b.nn.linear(g.input("x", "B", 2), g.weight("w", 2, 2)))
    x = np.ones((3 * ROWS + 1, 2), np.float32)
    assert collect(module, layers_of(module), [[x]], lambda _: None)["w"].rows <= ROWS


def test_waves_fit_into_memory() -> None:
    layers = layers_of(branches())
    names = [[layer.weight.name for layer in wave] for wave in waves(layers, 8 * 64)]
    assert names == [["a"], ["shared"], ["b"]]
    assert len(waves(layers)) == 1
    assert [len(wave) for wave in waves(layers, 0)] == [1, 1, 1]
    assert waves([]) == []
