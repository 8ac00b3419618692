"""Operators of `com.microsoft` that onnxruntime's optimiser leaves in saved models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.ops.convolution import convolve, kernels
from nomul.frontend.onnx.ops.linear import gemm, product_of
from nomul.frontend.onnx.ops.normalization import layer_norm, norm_over_tail
from nomul.frontend.onnx.ops.quantize import dequantize, quantize
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.graph import Value

microsoft_op = partial(onnx_op, domain="com.microsoft")

microsoft_op("LayerNormalization")(layer_norm)
microsoft_op("DequantizeLinear")(dequantize)
microsoft_op("QuantizeLinear")(quantize)


@microsoft_op("Gelu", "FastGelu", "BiasGelu")
def gelu(n: SourceNode) -> Value:
    """FastGelu is the form by tanh; a second operand is a bias."""
    x = n.broadcasting("ew.add", 0, 1) if n.has(1) else n.value()
    return n.b.ew.gelu(x, approximate="tanh" if n.op_type == "FastGelu" else "none")


@microsoft_op("QuickGelu")
def quick_gelu(n: SourceNode) -> Value:
    """x * sigmoid(alpha * x)."""
    x = n.value()
    return n.b.ew.mul(x, n.b.ew.sigmoid(n.b.ew.mul(x, n.attr("alpha", 1.702))))


@microsoft_op("FusedMatMul")
def fused_matmul(n: SourceNode) -> Value:
    if n.attr("transBatchA", 0) or n.attr("transBatchB", 0):
        n.unsupported("transposed batch axes are not supported")
    x, y = (_swapped(n, n.tensor(index), n.attr(name, 0)) for index, name in enumerate(("transA", "transB")))
    result, alpha = product_of(n, x, y), n.attr("alpha", 1.0)
    return result if alpha == 1.0 else n.b.ew.mul(result, alpha)


def _swapped(n: SourceNode, value: Value, swap: int) -> Value:
    """With the last two axes exchanged on demand."""
    rank = value.type.rank
    return n.transpose(value, [*range(rank - 2), rank - 1, rank - 2]) if swap and rank > 1 else value


@microsoft_op("FusedGemm")
def fused_gemm(n: SourceNode) -> Value:
    return _activated(n, gemm(n))


@microsoft_op("FusedConv")
def fused_conv(n: SourceNode) -> Value:
    """A convolution, then (with a fourth operand) a residual, then an activation."""
    y = convolve(n, n.tensor(), kernels(n), n.optional(2))
    return _activated(n, n.b.ew.add(y, n.tensor(3)) if n.has(3) else y)


def _activated(n: SourceNode, x: Value) -> Value:
    """The node's `activation`, with its parameters in order of the standard's attributes."""
    name, parameters = n.attr("activation", ""), n.attr("activation_params") or []
    known: dict[str, tuple[Callable[..., Value], tuple[str, ...]]] = {
        "Relu": (n.b.ew.relu, ()),
        "Tanh": (n.b.ew.tanh, ()),
        "Sigmoid": (n.b.ew.sigmoid, ()),
        "LeakyRelu": (n.b.ew.leaky_relu, ("slope",)),
        "Clip": (n.b.ew.clip, ("low", "high")),
        "HardSigmoid": (n.b.ew.hard_sigmoid, ("alpha", "beta")),
    }
    if not name:
        return x
    if name not in known:
        n.unsupported(f"the activation {name} is not supported")
    apply, names = known[name]
    return apply(x, **dict(zip(names, parameters, strict=False)))


@microsoft_op("SkipLayerNormalization")
def skip_layer_norm(n: SourceNode) -> tuple[Value | None, ...]:
    """Layer norm of (x + skip + bias); the fourth result is that sum."""
    total = _with_skip(n, 4)
    return norm_over_tail(n, "nn.layer_norm", [2, 3], total, eps=1e-12), None, None, total


@microsoft_op("SkipSimplifiedLayerNormalization")
def skip_rms_norm(n: SourceNode) -> tuple[Value | None, ...]:
    """The same by root mean square."""
    total = _with_skip(n, 3)
    return norm_over_tail(n, "nn.rms_norm", [2], total, eps=1e-12), None, None, total


def _with_skip(n: SourceNode, bias: int) -> Value:
    total = n.broadcasting("ew.add", 0, 1)
    return n.b.ew.add(total, n.tensor(bias)) if n.has(bias) else total


@microsoft_op("EmbedLayerNormalization")
def embed_layer_norm(n: SourceNode) -> tuple[Value | None, ...]:
    """Layer norm of word + position (+ segment) embeddings; the third result is their sum."""
    if n.has(7) or n.has(8) or any(n.outputs[1:2]):
        n.unsupported("a mask or position ids are not supported")
    ids, words, positions = n.tensor(0), n.tensor(2), n.tensor(3)
    length = n.shape(0)[1]
    n.at_most(length, positions.shape[0])
    total = n.b.ew.add(n.b.index.gather(words, ids, axis=0), n.slice(positions, 0, 0, length))
    if n.has(1) and n.has(4):
        total = n.b.ew.add(total, n.b.index.gather(n.tensor(4), n.tensor(1), axis=0))
    return norm_over_tail(n, "nn.layer_norm", [5, 6], total, eps=1e-12), None, total
