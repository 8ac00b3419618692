"""Linear layers and convolutions with inputs of eight bits, in two steps: `act` of nn.linear and nn.conv2d means both.

Layers that read the same tensor share its quantisation (`passes/quantise_inputs.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.dim import product as numel
from nomul.ir.op import Kind, op
from nomul.ir.ops.convolve import PADS, channels_first, images_of_groups, infer_conv2d, quantised_images
from nomul.ir.quantise import LEVELS, product, verify_act, verify_levels
from nomul.ir.quantise import quantise as quantise_rows
from nomul.ir.signature import TypeFault
from nomul.ir.types import DType, Tensor


def infer_quantise(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    (x,) = types
    assert x is not None
    if not 0 <= attrs["lead"] < x.rank:
        raise TypeFault(f"lead={attrs['lead']} leaves no elements of {x} in a row", 0)
    return x.with_dtype(DType.I8), Tensor(DType.F32, x.shape[: attrs["lead"]])


@op("nn.quantise", infer=infer_quantise, verify=verify_act)
def quantise(
    x: "f[_any]", *, lead: int, act: Literal["i8", "i8-static"] = "i8", act_scale: float = 0.0, levels: int = LEVELS
) -> "i8[_any]; f32[...]":
    """Integers and their scales (`ir/quantise.py`): one scale for all elements behind the first `lead` axes.
    levels: the largest integer."""
    q, scale = quantise_rows(x.reshape(int(np.prod(x.shape[:lead])), -1), act, act_scale, levels)
    return q.reshape(x.shape), scale.reshape(x.shape[:lead])


@op("nn.quantised_linear", Kind.ANCHOR, verify=verify_levels)
def quantised_linear(
    q: "i8[..., K]", scale: "f32[...]", w: "f[N, K]", bias: "f[N] | None" = None, *, levels: int = LEVELS
) -> "f[..., N]":
    """(q * scale) @ w.T + bias for q and scale of nn.quantise, whose levels are these; sums of integers are exact."""
    y = product(q.reshape(-1, q.shape[-1]), scale.reshape(-1), w).astype(w.dtype)
    y = y.reshape(*q.shape[:-1], w.shape[0])
    return y if bias is None else y + bias


def infer_quantised_conv2d(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    q, scale, w = types[:3]
    assert q is not None and scale is not None and w is not None
    if numel(scale.shape) != q.shape[0]:
        raise TypeFault(f"{scale} does not have a scale for each image of {q}", 1)
    return infer_conv2d([q, w], attrs).with_dtype(w.dtype)


@op("nn.quantised_conv2d", Kind.ANCHOR, infer=infer_quantised_conv2d, verify=verify_levels)
def quantised_conv2d(
    q: "i8[_any]",
    scale: "f32[_images]",
    w: "f[O, I, KH, KW]",
    bias: "f[O] | None" = None,
    *,
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = PADS,
    dilations: tuple[int, ...] = (1, 1),
    groups: int = 1,
    layout: Literal["nchw", "nhwc"] = "nchw",
    levels: int = LEVELS,
) -> "f[...]":
    """nn.conv2d of q * scale for q and scale of nn.quantise, whose levels are these; sums of integers are exact."""
    y = quantised_images(channels_first(q, layout), scale, w, strides, pads, dilations, groups)
    return images_of_groups(y, bias, w.dtype, layout)
