"""Normalisations and softmax."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from nomul.frontend.torch.lazy import ONE
from nomul.frontend.torch.lowering import Lowering
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Value
from nomul.ir.types import DType


def _over_last(g: Lowering, op: str, x: Value, count: int, scales: Sequence[Value | None], **attrs: Any) -> Value:
    """A norm over the last `count` axes, as one over a single last axis."""
    if count == 1:
        return g.b.op(op, x, *scales, name=g.name, **attrs)
    flat = product(x.shape[-count:])
    rows = g.reshape(x, (*x.shape[:-count], flat))
    flat_scales = [scale if scale is None else g.reshape(scale, (flat,)) for scale in scales]
    return g.reshape(g.b.op(op, rows, *flat_scales, name=g.name, **attrs), x.shape)


@aten("layer_norm")
def layer_norm(
    g: Lowering,
    x: Value,
    normalized_shape: Sequence[Any],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    return _over_last(g, "nn.layer_norm", x, len(normalized_shape), (weight, bias), eps=eps)


@aten("native_layer_norm")
def native_layer_norm(
    g: Lowering, x: Value, shape: Sequence[Any], weight: Value | None, bias: Value | None, eps: float
) -> tuple[Value, None, None]:
    return layer_norm(g, x, shape, weight, bias, eps), None, None


@aten("rms_norm")
def rms_norm(
    g: Lowering, x: Value, normalized_shape: Sequence[Any], weight: Value | None = None, eps: float | None = None
) -> Value:
    if eps is None:  # that of the type torch computes in, which is f32 for half precision
        eps = torch.finfo(torch.float64 if x.dtype is DType.F64 else torch.float32).eps
    return _over_last(g, "nn.rms_norm", x, len(normalized_shape), (weight,), eps=eps)


@aten("group_norm")
def group_norm(
    g: Lowering,
    x: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    if x.type.rank == 2:
        y = g.b.nn.group_norm(g.reshape(x, (*x.shape, ONE)), weight, bias, groups=num_groups, eps=eps, name=g.name)
        return g.reshape(y, x.shape)
    return g.b.nn.group_norm(x, weight, bias, groups=num_groups, eps=eps, name=g.name)


@aten("native_group_norm")
def native_group_norm(
    g: Lowering, x: Value, weight: Value | None, bias: Value | None, n: Any, c: Any, hw: Any, group: int, eps: float
) -> tuple[Value, None, None]:
    return group_norm(g, x, group, weight, bias, eps), None, None


@aten("instance_norm")
def instance_norm(
    g: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if not use_input_stats:
        return _batch_norm(g, x, weight, bias, running_mean, running_var, eps)
    return g.b.nn.group_norm(x, weight, bias, groups=int(x.shape[1]), eps=eps, name=g.name)


@aten("batch_norm")
def batch_norm(
    g: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Value:
    if training:
        raise g.unsupported("batch norm over the statistics of the batch is not supported", "call model.eval() first")
    return _batch_norm(g, x, weight, bias, running_mean, running_var, eps)


@aten("_native_batch_norm_legit_no_training")
def native_batch_norm(
    g: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    return _batch_norm(g, x, weight, bias, running_mean, running_var, eps), None, None


def _batch_norm(
    g: Lowering,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    variance: Value | None,
    eps: float,
) -> Value:
    channels = x.shape[1]
    filled = [
        _per_channel(g, given, number, channels, x)
        for given, number in ((weight, 1.0), (bias, 0.0), (mean, 0.0), (variance, 1.0))
    ]
    return g.b.nn.batch_norm(x, *filled, eps=eps, name=g.name)


def _per_channel(g: Lowering, given: Value | None, number: float, channels: Dim, x: Value) -> Value:
    if given is not None:
        return g.cast(given, x.dtype)
    return g.weights.add(f"{g.name}.{'ones' if number else 'zeros'}", np.full(int(channels), number, x.dtype.numpy))


@aten("softmax.int", "_softmax", "_safe_softmax")
def softmax(g: Lowering, x: Value, dim: int, dtype: Any = None) -> Value:
    """_softmax has `half_to_float` in the place of dtype; the result's type says the same."""
    x = g.cast(x, g.dtype())
    if x.type.rank == 0:
        return g.reshape(softmax(g, g.reshape(x, (ONE,)), 0), ())
    y = g.b.nn.softmax(x, axis=g.axis(dim, x.type.rank), name=g.name)
    if g.node.target._schema.name.endswith("_safe_softmax"):  # a row of -inf gives 0
        return g.b.ew.where(g.b.ew.is_nan(y), 0.0, y)
    return y


@aten("log_softmax.int", "_log_softmax")
def log_softmax(g: Lowering, x: Value, dim: int, dtype: Any = None) -> Value:
    x = g.cast(x, g.dtype())
    if x.type.rank == 0:
        return g.reshape(log_softmax(g, g.reshape(x, (ONE,)), 0), ())
    return g.b.nn.log_softmax(x, axis=g.axis(dim, x.type.rank), name=g.name)
