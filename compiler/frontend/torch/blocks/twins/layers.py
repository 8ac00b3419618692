"""Layers, norms, softmax and attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nomul.frontend.torch.blocks.twin import twin
from nomul.frontend.torch.qat.inputs import eight_bits
from nomul.ir.attention import visible
from nomul.ir.quantise import LEVELS


@twin("nn.linear")
def linear(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    act: str = "f32",
    act_scale: float = 0.0,
    act_levels: int = LEVELS,
) -> Tensor:
    seen = x if act == "f32" else eight_bits(x, -1, act_levels, act_scale)
    return functional.linear(seen, w, bias)


@twin("nn.conv2d")
def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    *,
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = (0, 0, 0, 0),
    dilations: tuple[int, ...] = (1, 1),
    groups: int = 1,
    act: str = "f32",
    act_scale: float = 0.0,
    act_levels: int = LEVELS,
) -> Tensor:
    top, left, bottom, right = pads
    seen = x if act == "f32" else eight_bits(x, tuple(range(1, x.dim())), act_levels, act_scale)
    padded = functional.pad(seen, (left, right, top, bottom))
    return functional.conv2d(padded, w, bias, stride=strides, dilation=dilations, groups=groups)


@twin("nn.matmul")
def matmul(x: Tensor, y: Tensor) -> Tensor:
    return x @ y


@twin("nn.layer_norm")
def layer_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], gamma, beta, eps)


@twin("nn.rms_norm")
def rms_norm(x: Tensor, gamma: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], gamma, eps)


@twin("nn.batch_norm")
def batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor, *, eps: float = 1e-5) -> Tensor:
    return functional.batch_norm(x, mean, variance, gamma, beta, eps=eps)


@twin("nn.softmax")
def softmax(x: Tensor, *, axis: int) -> Tensor:
    return torch.softmax(x, axis)


@twin("nn.rotary")
def rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = False) -> Tensor:
    pairs = cos.shape[2]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    halves = turned.unflatten(-1, (pairs, 2)).unbind(-1) if interleaved else turned.chunk(2, dim=-1)
    (first, second), (c, s) = halves, (table[:, :, None] for table in (cos, sin))
    ends = first * c - second * s, second * c + first * s
    joined = torch.stack(ends, -1).flatten(-2) if interleaved else torch.cat(ends, -1)
    return torch.cat([joined, rest], -1)


@twin("nn.attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float,
    causal: bool = False,
    block: int = 1,
    prefix: int = 0,
    window: int = 0,
    offset: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    shared = q.shape[2] // k.shape[2]
    keys, values = (x.repeat_interleave(shared, dim=2) for x in (k, v))
    scores = torch.einsum("bshd,bthd->bhst", q, keys) * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    rows, columns = scores.shape[2:]
    seen = visible(rows, columns, causal=causal, block=block, prefix=prefix, window=window, offset=offset)
    if seen is not None:
        scores = scores.masked_fill(~torch.from_numpy(seen), -torch.inf)
    some = scores > -torch.inf
    weights = torch.softmax(scores.where(some.any(-1, keepdim=True), 0.0), -1) * some
    return torch.einsum("bhst,bthe->bshe", weights, values)
