"""Activation functions with parameters."""

from __future__ import annotations

from typing import Any

from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim
from nomul.ir.graph import Value


@aten("gelu")
def gelu(g: Lowering, x: Value, approximate: str = "none") -> Value:
    return g.b.ew.gelu(x, approximate=approximate)


@aten("leaky_relu")
def leaky_relu(g: Lowering, x: Value, negative_slope: float = 0.01) -> Value:
    return g.b.ew.leaky_relu(x, slope=float(negative_slope))


@aten("prelu", "_prelu_kernel")
def prelu(g: Lowering, x: Value, weight: Value) -> Value:
    """max(x, 0) + weight * min(x, 0), weight per channel (axis 1)."""
    if x.type.rank > 2 and weight.type.rank == 1 and weight.shape[0] != Dim.of(1):
        weight = g.reshape(weight, (*weight.shape, *[Dim.of(1)] * (x.type.rank - 2)))
    return g.b.ew.add(g.b.ew.relu(x), g.b.ew.mul(g.b.ew.min(x, 0.0), weight))


@aten("elu")
def elu(g: Lowering, x: Value, alpha: Any = 1.0, scale: Any = 1.0, input_scale: Any = 1.0) -> Value:
    if input_scale != 1.0:
        positive = g.b.ew.relu(x)
        negative = g.b.ew.elu(g.b.ew.mul(g.b.ew.min(x, 0.0), float(input_scale)), alpha=float(alpha))
        y = g.b.ew.add(positive, negative)
    else:
        y = g.b.ew.elu(x, alpha=float(alpha))
    return y if scale == 1.0 else g.b.ew.mul(y, float(scale))


@aten("celu")
def celu(g: Lowering, x: Value, alpha: Any = 1.0) -> Value:
    return elu(g, x, alpha, 1.0, 1.0 / float(alpha))


@aten("softplus")
def softplus(g: Lowering, x: Value, beta: Any = 1.0, threshold: Any = 20.0) -> Value:
    """Above the threshold torch returns x itself, which the exact function equals to rounding."""
    scaled = x if beta == 1 else g.b.ew.mul(x, float(beta))
    y = g.b.ew.softplus(scaled)
    y = y if beta == 1 else g.b.ew.mul(y, 1.0 / float(beta))
    return y if threshold >= 20 else g.b.ew.where(g.b.ew.gt(scaled, float(threshold)), x, y)


@aten("hardsigmoid")
def hard_sigmoid(g: Lowering, x: Value) -> Value:
    return g.b.ew.hard_sigmoid(x)


@aten("hardswish")
def hard_swish(g: Lowering, x: Value) -> Value:
    return g.b.ew.hard_swish(x)


@aten("hardtanh", lazy=True)
def hardtanh(g: Lowering, x: Operand, min_val: Any = -1, max_val: Any = 1) -> Any:
    return g.elementwise("ew.clip", [x], g.dtype(), low=float(min_val), high=float(max_val))


@aten("relu6", lazy=True)
def relu6(g: Lowering, x: Operand) -> Any:
    return hardtanh(g, x, 0, 6)
