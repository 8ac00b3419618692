"""Multi-head latent attention and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.ops.attention import attention
from nomul.ir.shapes import ONE
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor


@op("nn.latent_attention", Kind.COMPOSED)
def latent_attention(
    q: "f[B, S, H, C]",
    q_rotary: "f[B, S, H, R]",
    latent: "f[B, T, C]",
    k_rotary: "f[B, T, R]",
    mask: "t[_any] | None" = None,
    *,
    scale: float,
    causal: bool = False,
    offset: Dim = Dim.of(0),
) -> "f[B, S, H, C]":
    """Multi-head latent attention in its absorbed form (DeepSeek-AI, "DeepSeek-V2", 2024): all heads read one latent
    vector per token, softmax((q latent^T + q_rotary k_rotary^T) * scale) latent; mask, causal and
    offset as in nn.attention."""
    queries, keys = np.concatenate([q, q_rotary], -1), np.concatenate([latent, k_rotary], -1)
    values = latent[:, :, None]
    return attention.function(queries, keys[:, :, None], values, mask, scale=scale, causal=causal, offset=offset)


def check_rotary(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    x, cos, sin = types
    assert x is not None and cos is not None and sin is not None
    if cos.rank != 3 or cos.shape[0] not in (x.shape[0], ONE) or cos.shape[1] != x.shape[1]:
        raise TypeFault(f"{cos} has no angles for the tokens of {x}", 1)
    if sin.shape != cos.shape:
        raise TypeFault(f"{sin} is not of the shape of {cos}", 2)
    if cos.shape[2].value is None or x.shape[3].value is None or 2 * int(cos.shape[2]) > int(x.shape[3]):
        raise TypeFault(f"{cos.shape[2]} angles turn more than the elements of {x}", 1)


@op("nn.rotary", Kind.COMPOSED, verify=check_rotary)
def rotary(x: "f[B, S, H, D]", cos: "f[_any]", sin: "f[_any]", *, interleaved: bool = False) -> "like x":
    """Turn pairs of elements of each head by angles of its token (Su et al., "RoFormer", 2021).

    cos, sin are [B or 1, S, R]. Pair r is (x[r], x[r + R]), or (x[2r], x[2r + 1]) where interleaved; elements behind
    the pairs stay."""
    pairs = cos.shape[2]
    first, second = (
        (slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2))
        if interleaved
        else (
            slice(0, pairs),
            slice(pairs, 2 * pairs),
        )
    )
    wide_x, (c, s) = wide(x), (wide(angle)[:, :, None] for angle in (cos, sin))
    y = wide_x.copy()
    y[..., first] = wide_x[..., first] * c - wide_x[..., second] * s
    y[..., second] = wide_x[..., second] * c + wide_x[..., first] * s
    return y.astype(x.dtype)
