"""Norms, activations, softmax, linear layers and convolutions: forms that fuse, and near misses with reasons."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import numpy as np
import pytest
from pass_graphs import Graph, Outcome, apply, built, reasons

from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType
from nomul.passes.rules.fuse.norms import LayerNorm
from nomul.passes.rules.fuse.softmax import Softmax

Make = Callable[[Graph], Value | tuple[Value, ...]]


def fused(make: Make) -> Outcome:
    return apply(built(make), "simplify", "fuse")


# -- norms ---------------------------------------------------------------------------------------------------------
def decomposed_layer_norm(g: Graph, x: Value, axis: int, root: str = "sqrt", square: str = "mul") -> Value:
    b = g.b
    centred = b.ew.sub(x, b.reduce.mean(x, axes=(axis,), keepdims=True))
    squared = b.ew.pow(centred, 2.0) if square == "pow" else b.ew.mul(centred, centred)
    deviation = b.ew.add(b.reduce.mean(squared, axes=(axis,), keepdims=True), 1e-5)
    if root == "sqrt":
        return b.ew.div(centred, b.ew.sqrt(deviation))
    if root == "reciprocal":
        return b.ew.mul(centred, b.ew.div(1.0, b.ew.sqrt(deviation)))
    return b.ew.mul(b.ew.rsqrt(deviation) if root == "rsqrt" else b.ew.pow(deviation, -0.5), centred)


@pytest.mark.parametrize("root", ["sqrt", "rsqrt", "reciprocal", "power"])
@pytest.mark.parametrize("square", ["mul", "pow"])
def test_layer_norm_with_gamma_and_beta(root: str, square: str) -> None:
    def make(g: Graph) -> Value:
        y = decomposed_layer_norm(g, g.input("x", "B", "S", 8), 2, root, square)
        return g.b.ew.add(g.b.ew.mul(g.weight("gamma", 8), y), g.weight("beta", 8))

    out = fused(make)
    assert out.ops == ["nn.layer_norm"]
    assert [str(arg) for arg in out.result.args] == ["%x", "@gamma", "@beta"]
    assert out.result.attrs["eps"] == pytest.approx(1e-5)


def test_layer_norm_with_means_from_sums() -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        centred = b.ew.sub(x, b.ew.div(b.reduce.sum(x, axes=(1,), keepdims=True), 8.0))
        total = b.reduce.sum(b.ew.mul(centred, centred), axes=(1,), keepdims=True)
        return b.ew.div(centred, b.ew.sqrt(b.ew.add(b.ew.mul(total, 0.125), 1e-6)))

    assert fused(make).ops == ["nn.layer_norm"]


def test_layer_norm_over_channels_is_transposed() -> None:
    out = fused(lambda g: decomposed_layer_norm(g, g.input("x", "B", 6, "S"), 1))
    assert out.ops == ["view.transpose", "nn.layer_norm", "view.transpose"]


def test_layer_norm_with_unequal_axes_gives_its_reason() -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        centred = b.ew.sub(x, b.reduce.mean(x, axes=(1,), keepdims=True))
        variance = b.reduce.mean(b.ew.mul(centred, centred), axes=(0,), keepdims=True)
        return b.ew.div(centred, b.ew.sqrt(b.ew.add(variance, 1e-5)))

    assert reasons(LayerNorm(), built(make)) == ["mean over axes [1], variance over [0]"]


def test_layer_norm_of_another_variance_is_a_near_miss() -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        centred = b.ew.sub(x, b.reduce.mean(x, axes=(1,), keepdims=True))
        variance = b.reduce.mean(b.ew.mul(centred, x), axes=(1,), keepdims=True)
        return b.ew.mul(centred, b.ew.rsqrt(b.ew.add(b.ew.abs(variance), 1e-5)))

    out = fused(make)
    assert "nn.layer_norm" not in out.ops
    assert "needs reduce.mean, found ew.abs" in reasons(LayerNorm(), built(make))


def test_gamma_of_another_shape_stays_outside() -> None:
    def make(g: Graph) -> Value:
        return g.b.ew.mul(decomposed_layer_norm(g, g.input("x", "B", 5, 8), 2), g.weight("gamma", 5, 1))

    assert fused(make).ops == ["nn.layer_norm", "ew.mul"]


@pytest.mark.parametrize("divide", [True, False])
def test_rms_norm(divide: bool) -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        deviation = b.ew.add(b.reduce.mean(b.ew.pow(x, 2.0), axes=(1,), keepdims=True), 1e-6)
        y = b.ew.div(x, b.ew.sqrt(deviation)) if divide else b.ew.mul(x, b.ew.rsqrt(deviation))
        return b.ew.mul(g.weight("gamma", 8), y)

    out = fused(make)
    assert out.ops == ["nn.rms_norm"]
    assert len(out.result.args) == 2


def test_rms_norm_between_casts() -> None:
    def make(g: Graph) -> Value:
        b = g.b
        x = b.ew.cast(g.input("x", "S", 8, dtype="f16"), dtype=DType.F32)
        y = b.ew.mul(x, b.ew.rsqrt(b.ew.add(b.reduce.mean(b.ew.mul(x, x), axes=(1,), keepdims=True), 1e-6)))
        return b.ew.mul(g.array("gamma", np.ones(8, np.float16) * 2), b.ew.cast(y, dtype=DType.F16))

    assert fused(make).ops == ["ew.cast", "nn.rms_norm", "ew.cast", "ew.mul"]


# -- activations ---------------------------------------------------------------------------------------------------
def gelu_forms() -> list[Make]:
    def erf(g: Graph, x: Value) -> Value:
        return g.b.ew.erf(g.b.ew.div(x, sqrt(2)))

    return [
        lambda g, b, x: b.ew.mul(b.ew.mul(x, b.ew.add(erf(g, x), 1.0)), 0.5),
        lambda g, b, x: b.ew.mul(b.ew.mul(0.5, x), b.ew.add(1.0, erf(g, x))),
        lambda g, b, x: b.ew.mul(b.ew.mul(b.ew.add(erf(g, x), 1.0), 0.5), x),
        lambda g, b, x: b.ew.mul(x, b.ew.add(b.ew.mul(erf(g, x), 0.5), 0.5)),
    ]


@pytest.mark.parametrize("form", range(4))
def test_gelu(form: int) -> None:
    out = fused(lambda g: gelu_forms()[form](g, g.b, g.input("x", "S", 8)))
    assert out.ops == ["ew.gelu"]
    assert out.result.attrs["approximate"] == "none"


def test_gelu_with_another_constant_is_a_near_miss() -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        return b.ew.mul(b.ew.mul(x, b.ew.add(b.ew.erf(b.ew.mul(x, 0.6)), 1.0)), 0.5)

    out = fused(make)
    assert "ew.gelu" not in out.ops
    assert any("needs the number 0.707107, found 0.6" in reason for reason in out.reasons("gelu"))


@pytest.mark.parametrize("form", range(3))
def test_gelu_by_tanh(form: int) -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        cubes = [
            lambda: b.ew.add(x, b.ew.mul(b.ew.pow(x, 3.0), 0.044715)),
            lambda: b.ew.add(x, b.ew.mul(b.ew.mul(b.ew.mul(0.044715, x), x), x)),
            lambda: b.ew.mul(x, b.ew.add(b.ew.mul(b.ew.mul(x, x), 0.044715), 1.0)),
        ]
        tanh = b.ew.tanh(b.ew.mul(cubes[form](), sqrt(2 / pi)))
        return b.ew.mul(b.ew.mul(x, 0.5), b.ew.add(tanh, 1.0))

    out = fused(make)
    assert out.ops == ["ew.gelu"]
    assert out.result.attrs["approximate"] == "tanh"


ACTIVATIONS: dict[str, Callable[..., Value]] = {
    "ew.sigmoid": lambda b, x: b.ew.div(1.0, b.ew.add(b.ew.exp(b.ew.neg(x)), 1.0)),
    "ew.silu": lambda b, x: b.ew.mul(b.ew.sigmoid(x), x),
    "ew.hard_swish": lambda b, x: b.ew.div(b.ew.mul(x, b.ew.clip(b.ew.add(x, 3.0), low=0.0, high=6.0)), 6.0),
    "ew.hard_sigmoid": lambda b, x: b.ew.clip(b.ew.add(b.ew.mul(x, 0.2), 0.5), low=0.0, high=1.0),
    "ew.softplus": lambda b, x: b.ew.log(b.ew.add(1.0, b.ew.exp(x))),
    "ew.mish": lambda b, x: b.ew.mul(x, b.ew.tanh(b.ew.softplus(x))),
    "ew.leaky_relu": lambda b, x: b.ew.where(b.ew.gt(x, 0.0), x, b.ew.mul(x, 0.1)),
}


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations(op: str) -> None:
    assert fused(lambda g: ACTIVATIONS[op](g.b, g.input("x", "S", 8))).ops == [op]


def test_hard_swish_from_hard_sigmoid_and_relu6() -> None:
    assert fused(lambda g: g.b.ew.mul((x := g.input("x", "S")), g.b.ew.hard_sigmoid(x))).ops == ["ew.hard_swish"]

    def relu6(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S")
        return b.ew.mul(x, b.ew.div(b.ew.min(b.ew.max(b.ew.add(x, 3.0), 0.0), 6.0), 6.0))

    assert fused(relu6).ops == ["ew.hard_swish"]


def test_quick_gelu_stays() -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S")
        return b.ew.mul(x, b.ew.sigmoid(b.ew.mul(x, 1.702)))

    assert fused(make).ops == ["ew.mul", "ew.sigmoid", "ew.mul"]


# -- softmax -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shifted", [True, False])
def test_softmax(shifted: bool) -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        e = b.ew.exp(b.ew.sub(x, b.reduce.max(x, axes=(1,), keepdims=True)) if shifted else x)
        return b.ew.div(e, b.reduce.sum(e, axes=(1,), keepdims=True))

    out = fused(make)
    assert (out.ops, out.result.attrs["axis"]) == (["nn.softmax"], 1)


def test_softmax_over_two_axes_gives_its_reason() -> None:
    def make(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        e = b.ew.exp(x)
        return b.ew.div(e, b.reduce.sum(e, axes=(0, 1), keepdims=True))

    assert reasons(Softmax(), built(make)) == ["the sum runs over 2 axes"]


def test_log_softmax() -> None:
    assert fused(lambda g: g.b.ew.log(g.b.nn.softmax(g.input("x", "S", 8), axis=1))).ops == ["nn.log_softmax"]

    def long(g: Graph) -> Value:
        b, x = g.b, g.input("x", "S", 8)
        shifted = b.ew.sub(x, b.reduce.max(x, axes=(1,), keepdims=True))
        return b.ew.sub(shifted, b.ew.log(b.reduce.sum(b.ew.exp(shifted), axes=(1,), keepdims=True)))

    assert fused(long).ops == ["nn.log_softmax"]


# -- linear --------------------------------------------------------------------------------------------------------
def test_a_product_with_a_weight_takes_bias_and_scale() -> None:
    def make(g: Graph) -> Value:
        y = g.b.nn.matmul(g.input("x", "B", "S", 8), g.weight("w", 8, 6))
        return g.b.ew.mul(g.b.ew.mul(g.b.ew.add(g.weight("b", 6), y), g.weight("scale", 6)), 0.5)

    out = fused(make)
    assert out.ops == ["nn.linear"]
    assert [str(arg) for arg in out.result.args] == ["%x", "@w", "@b"]
    assert out.module.weights["w"].shape == (6, 8)
    assert set(out.module.weights) == {"w", "b"}


def test_two_biases_become_one() -> None:
    def make(g: Graph) -> Value:
        return g.b.ew.add(g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 6, 8), g.weight("b", 6)), g.weight("c", 6))

    assert fused(make).ops == ["nn.linear"]


def test_a_product_used_elsewhere_keeps_its_bias_outside() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        y = g.b.nn.linear(g.input("x", "S", 8), g.weight("w", 6, 8))
        return g.b.ew.add(y, g.weight("b", 6)), g.b.ew.exp(y)

    out = fused(make)
    assert "ew.add" in out.ops
    assert out.reasons("bias_into_linear") == ["the product without bias is used elsewhere"]


def test_a_product_with_a_batch_of_weights_stays() -> None:
    out = fused(lambda g: g.b.nn.matmul(g.input("x", 3, "S", 8), g.weight("w", 3, 8, 6)))
    assert out.ops == ["nn.matmul"]
    assert "is a batch of matrices" in out.reasons("matmul_by_weight")[0]


# -- convolutions --------------------------------------------------------------------------------------------------
def conv(g: Graph, x: Value, channels: int = 6, **attrs: object) -> Value:
    return g.b.nn.conv2d(x, g.weight("w", channels, 4, 3, 3), **attrs)


def batch_norm(g: Graph, x: Value, channels: int) -> Value:
    variance = g.array("variance", np.linspace(0.5, 2, channels, dtype=np.float32))
    return g.b.nn.batch_norm(
        x, g.weight("gamma", channels), g.weight("beta", channels), g.weight("mean", channels), variance
    )


def test_batch_norm_goes_into_the_convolution() -> None:
    out = fused(lambda g: g.b.ew.relu(batch_norm(g, conv(g, g.input("x", "B", 4, 9, 9)), 6)))
    assert out.ops == ["nn.conv2d", "ew.relu"]
    assert len(out.module.weights) == 2


def test_batch_norm_goes_into_a_transposed_convolution() -> None:
    def make(g: Graph) -> Value:
        x = g.input("x", "B", 4, 5, 5)
        return batch_norm(g, g.b.nn.conv_transpose2d(x, g.weight("w", 4, 6, 2, 2), g.weight("b", 6), strides=(2, 2)), 6)

    assert fused(make).ops == ["nn.conv_transpose2d"]


def test_batch_norm_alone_is_a_scale_and_a_shift() -> None:
    assert fused(lambda g: batch_norm(g, g.input("x", "B", 4, 5, 5), 4)).ops == ["ew.mul", "ew.add"]


def test_a_convolution_used_elsewhere_keeps_its_scale_outside() -> None:
    def make(g: Graph) -> tuple[Value, ...]:
        y = conv(g, g.input("x", "B", 4, 9, 9))
        return g.b.ew.mul(y, g.weight("scale", 6, 1, 1)), g.b.ew.exp(y)

    out = fused(make)
    assert "ew.mul" in out.ops
    assert out.reasons("scale_into_convolution") == ["the unscaled convolution is used elsewhere"]


def test_learnable_scalars_go_into_the_convolution() -> None:
    def make(g: Graph) -> Value:
        y = conv(g, g.input("x", "B", 4, 9, 9))
        return g.b.ew.add(g.b.ew.mul(y, g.array("scale", np.float32([2]))), g.array("shift", np.float32([0.5])))

    assert fused(make).ops == ["nn.conv2d"]


def test_zero_padding_goes_into_the_convolution_and_other_padding_stays() -> None:
    def padded(value: float) -> Make:
        def make(g: Graph) -> Value:
            x = g.b.view.pad(g.input("x", "B", 4, 9, 9), before=(0, 0, 1, 2), after=(0, 0, 0, 1), value=value)
            return conv(g, x, pads=(1, 0, 1, 0))

        return make

    out = fused(padded(0.0))
    assert (out.ops, out.result.attrs["pads"]) == (["nn.conv2d"], (2, 2, 1, 1))
    out = fused(padded(1.0))
    assert out.ops == ["view.pad", "nn.conv2d"]
    assert out.reasons("pad_into_convolution") == ["the padding is constant 1.0, not zeros"]


def test_padding_of_channels_stays() -> None:
    def make(g: Graph) -> Value:
        return conv(g, g.b.view.pad(g.input("x", "B", 3, 9, 9), before=(0, 1, 0, 0), after=(0, 0, 0, 0)))

    assert fused(make).ops == ["view.pad", "nn.conv2d"]


def test_a_bias_along_the_width_stays_outside() -> None:
    def make(g: Graph) -> Value:
        return g.b.ew.add(conv(g, g.input("x", "B", 4, 8, 8)), g.weight("b", 6))

    assert fused(make).ops == ["nn.conv2d", "ew.add"]


def test_shapes_with_dims_of_one_keep_their_type() -> None:
    def make(g: Graph) -> Value:
        pooled = g.b.reduce.mean(g.input("x", "B", 4, "S", "S"), axes=(2, 3), keepdims=True)
        return g.b.ew.mul(g.b.nn.conv2d(pooled, g.weight("w", 6, 4, 1, 1)), 0.5)

    out = fused(make)
    assert out.ops == ["reduce.mean", "nn.conv2d"]
    assert out.module.main.returns[0].shape == (Dim.of("B"), 6, 1, 1)
