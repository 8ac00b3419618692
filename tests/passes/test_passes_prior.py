"""Without calibration data: which inputs have a mean in common, and that errors of a row do not add up there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from pass_graphs import Graph, built

from nomul.ir.graph import Module, Value
from nomul.ir.syntax import parse_encoding
from nomul.passes.base import Report
from nomul.passes.encode import Encode
from nomul.passes.fit import find_fitter
from nomul.passes.layers import layers_of
from nomul.passes.prior import Prior, prior_of

NORMAL = np.random.default_rng(3).standard_normal(1 << 18)
BIAS = np.array([2, -1, 0.5, 1], np.float32)
ROWS, COLUMNS = 32, 64


def of_layer(make: Callable[[Graph, Value], Value]) -> float:
    """Of a linear layer behind what `make` makes of the layer before it."""

    def network(g: Graph) -> Value:
        hidden = g.b.nn.linear(g.input("x", "B", 4), g.weight("before", COLUMNS, 4))
        inputs = make(g, hidden)
        return g.b.nn.linear(inputs, g.weight("w", 3, int(inputs.shape[-1])))

    (layer,) = [layer for layer in layers_of(built(network)) if layer.weight.name == "w"]
    prior = prior_of(layer)
    return prior.power if prior else 0.0


def test_inputs_behind_an_activation_have_its_mean() -> None:
    relu = np.maximum(NORMAL, 0)
    assert of_layer(lambda g, x: g.b.ew.relu(x)) == pytest.approx(relu.mean() ** 2 / relu.var(), rel=0.02)
    silu = NORMAL / (1 + np.exp(-NORMAL))
    assert of_layer(lambda g, x: g.b.ew.silu(x)) == pytest.approx(silu.mean() ** 2 / silu.var(), rel=0.05)
    assert of_layer(lambda g, x: g.b.ew.tanh(x)) == 0


def test_views_pass_it_on_and_other_work_ends_it() -> None:
    gelu = of_layer(lambda g, x: g.b.ew.gelu(x))
    assert gelu == pytest.approx(0.23, abs=0.01)
    assert of_layer(lambda g, x: g.b.view.reshape(g.b.ew.gelu(x), shape=("B", 2, 32))) == gelu
    assert of_layer(lambda g, x: g.b.view.concat(g.b.ew.gelu(x), g.b.ew.relu(x), axis=1)) == gelu
    assert of_layer(lambda g, x: g.b.view.concat(g.b.ew.gelu(x), x, axis=1)) == 0
    assert of_layer(lambda g, x: g.b.ew.add(g.b.ew.gelu(x), x)) == 0
    assert of_layer(lambda g, x: x) == 0


def test_images_have_one_and_depthwise_convolutions_none() -> None:
    def network(g: Graph) -> Value:
        x = g.b.nn.conv2d(g.input("x", 1, 3, 8, 8), g.weight("first", 4, 3, 3, 3))
        x = g.b.nn.conv2d(g.b.ew.relu(x), g.weight("depthwise", 4, 1, 3, 3), groups=4)
        return g.b.nn.conv2d(g.b.ew.relu(x), g.weight("last", 4, 4, 1, 1))

    found = {layer.weight.name: prior_of(layer) for layer in layers_of(built(network))}
    assert found["depthwise"] is None
    assert found["first"] == Prior(9)
    assert found["last"] and found["last"].power == pytest.approx(0.467, abs=0.01)


def test_biases_in_front_of_an_activation_tell_the_means_of_channels() -> None:
    def network(g: Graph) -> Value:
        x = g.b.nn.conv2d(g.input("x", 1, 3, 8, 8), g.weight("first", 4, 3, 1, 1), g.array("bias", BIAS))
        x = g.b.nn.max_pool2d(g.b.ew.relu(x), kernel=(2, 2), strides=(2, 2))
        return g.b.nn.conv2d(x, g.weight("w", 5, 4, 2, 2))

    (prior,) = [prior_of(layer) for layer in layers_of(built(network)) if layer.weight.name == "w"]
    assert prior and prior.means is not None
    means = np.maximum(BIAS, 0).astype(np.float64)
    assert np.allclose(prior.means, means)
    wanted = np.repeat(means, 4) / np.sqrt(np.mean(means**2))
    assert np.allclose(prior.hessian(16), np.eye(16) + prior.power + np.outer(wanted, wanted))
    assert bytes(prior) != bytes(Prior(prior.power))


def behind_relu() -> Module:
    def network(g: Graph) -> Value:
        hidden = g.b.ew.relu(g.b.nn.linear(g.input("x", "B", 8), g.weight("before", COLUMNS, 8)))
        return g.b.nn.linear(hidden, g.weight("w", ROWS, COLUMNS))

    return built(network)


def errors(encoding: str) -> tuple[np.ndarray, np.ndarray]:
    """[N, K], of the layer behind relu: as the pass fits it, and by the same fitter without what is known of inputs."""
    module = behind_relu()
    array = module.weights["w"].array()
    Encode.of(weights=encoding).run(module, Report())
    kind = parse_encoding(encoding)
    alone = kind.unpack(find_fitter(None, kind)(array, None, kind), array.shape)
    return module.weights["w"].array() - array, alone - array


@pytest.mark.parametrize(
    "encoding", ["int4<group=32>", "int4<zero=1, group=32>", "codebook<grid=nf4>", "ternary<planes=2>"]
)
def test_errors_of_few_bits_do_not_add_up_behind_an_activation(encoding: str) -> None:
    found, alone = errors(encoding)
    assert np.square(found.sum(axis=1)).mean() < 0.2 * np.square(alone.sum(axis=1)).mean()
    hessian = Prior(0.467).hessian(COLUMNS)
    assert np.vdot(found @ hessian, found) < 0.9 * np.vdot(alone @ hessian, alone)


def test_eight_bits_are_fitted_to_the_weights_alone() -> None:
    found, alone = errors("int8")
    assert np.array_equal(found, alone)


def test_sparse_weights_are_fitted_to_the_weights_alone() -> None:
    found, alone = errors("nm<n=2, m=4, value=int8>")
    assert np.array_equal(found, alone)
