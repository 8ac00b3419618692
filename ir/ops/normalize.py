"""Normalisations and softmax. Those of f16 and bf16 are computed in f32 and rounded at the end, as in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.ops.reduce import check_axis
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor


@op("nn.layer_norm", Kind.ANCHOR)
def layer_norm(
    x: "f[..., D]", gamma: "f[D] | None" = None, beta: "f[D] | None" = None, *, eps: float = 1e-5
) -> "like x":
    """Zero mean and unit variance over the last axis, then scale and shift."""
    row = wide(x)
    centred = row - row.mean(-1, keepdims=True)
    y = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + row.dtype.type(eps))
    y = y if gamma is None else y * wide(gamma)
    return (y if beta is None else y + wide(beta)).astype(x.dtype)


@op("nn.rms_norm", Kind.ANCHOR)
def rms_norm(x: "f[..., D]", gamma: "f[D] | None" = None, *, eps: float = 1e-5) -> "like x":
    """Scale x to unit root mean square over its last axis, then by gamma."""
    row = wide(x)
    y = row / np.sqrt((row * row).mean(-1, keepdims=True) + row.dtype.type(eps))
    return (y if gamma is None else y * wide(gamma)).astype(x.dtype)


def check_channels(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    """A verify hook: operands behind the first have one number per channel of x [N, C, ...]."""
    x = types[0]
    if x is None or x.rank < 2:
        raise TypeFault(f"{x} has no axis of channels", 0)
    for position, given in enumerate(types[1:], 1):
        if given is not None and given.shape != (x.shape[1],):
            raise TypeFault(f"{given} does not fit the channels of {x}", position)


def check_groups(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    """A verify hook: `groups` divides the channels of x [N, C, ...]."""
    check_channels(types, attrs)
    x = types[0]
    if x is None or attrs["groups"] < 1 or x.shape[1].value is None or int(x.shape[1]) % attrs["groups"]:
        raise TypeFault(f"{attrs['groups']} groups do not divide the channels of {x}", 0)


@op("nn.group_norm", verify=check_groups)
def group_norm(
    x: "f[_any]", gamma: "f[C] | None" = None, beta: "f[C] | None" = None, *, groups: int, eps: float = 1e-5
) -> "like x":
    """Normalise each group of channels of x [N, C, ...] over the group and all positions; groups = C: instance norm."""
    rows = wide(x).reshape(x.shape[0], groups, -1)
    centred = rows - rows.mean(-1, keepdims=True)
    y = (centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + rows.dtype.type(eps))).reshape(x.shape)
    per_channel = (-1,) + (1,) * (x.ndim - 2)
    y = y if gamma is None else y * wide(gamma).reshape(per_channel)
    return (y if beta is None else y + wide(beta).reshape(per_channel)).astype(x.dtype)


@op("nn.batch_norm", verify=check_channels)
def batch_norm(
    x: "f[_any]", gamma: "f[C]", beta: "f[C]", mean: "f[C]", variance: "f[C]", *, eps: float = 1e-5
) -> "like x":
    """(x - mean) / sqrt(variance + eps) * gamma + beta per channel of x [N, C, ...], with the trained statistics."""
    per_channel = (-1,) + (1,) * (x.ndim - 2)
    scale = wide(gamma) / np.sqrt(wide(variance) + wide(x).dtype.type(eps))
    shift = wide(beta) - wide(mean) * scale
    return (wide(x) * scale.reshape(per_channel) + shift.reshape(per_channel)).astype(x.dtype)


@op("nn.softmax", Kind.ANCHOR, verify=check_axis)
def softmax(x: "f[...]", *, axis: int) -> "like x":
    """exp(x - max) / sum along an axis."""
    e = np.exp(wide(x) - wide(x).max(axis, keepdims=True))
    return (e / e.sum(axis, keepdims=True)).astype(x.dtype)


@op("nn.log_softmax", verify=check_axis)
def log_softmax(x: "f[...]", *, axis: int) -> "like x":
    """x - log(sum(exp(x))) along an axis."""
    shifted = wide(x) - wide(x).max(axis, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))).astype(x.dtype)
