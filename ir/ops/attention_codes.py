"""Attention of binary codes: values are added where bits are set, nothing is multiplied."""

from __future__ import annotations

import numpy as np

from nomul.ir.attention import divided
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op


@op("nn.hamming_codes", Kind.COMPOSED)
def hamming_codes(x: "f[B, S, H, D]") -> "bool[B, S, H, D]":
    """Each head's vector at length 1, then: above the mean of the whole tensor (You et al., "ShiftAddViT", 2023)."""
    y = wide(x)
    unit = divided(y, np.sqrt((y * y).sum(-1, keepdims=True)))
    return unit > unit.mean()


@op("nn.hash_codes", Kind.COMPOSED)
def hash_codes(
    x: "f[B, S, H, D]", anchors: "f[H, A, D]", centre: "f[H, A]", projection: "f[H, M, A]", *, sigma: float
) -> "bool[B, S, H, M]":
    """Bits of kernelised hashing (Liu et al., "EcoFormer", 2022): projection (exp(-|x - anchor|^2 / (2 sigma)) -
    centre) is above 0."""
    y = wide(x)
    away = ((y[:, :, :, None] - wide(anchors)) ** 2).sum(-1)
    kernel = np.exp(away * y.dtype.type(-0.5 / sigma)) - wide(centre)
    return np.einsum("bsha,hma->bshm", kernel, wide(projection)) > 0


@op("nn.hamming_attention")
def hamming_attention(
    q: "b[B, S, H, M]", k: "b[B, S, H, M]", v: "f[B, S, H, E]", *, normalise: bool = True
) -> "f[B, S, H, E]":
    """v / 2 + q (k^T v) / pi for bits q, k: linear angular attention of the first order (You et al., "ShiftAddViT",
    2023); with normalise, each head's vector then has length 1 (or is 0)."""
    values = wide(v)
    sums = np.einsum("bthm,bthe->bhme", k.astype(values.dtype), values)
    y = values * values.dtype.type(0.5) + np.einsum(
        "bshm,bhme->bshe", q.astype(values.dtype), sums
    ) / values.dtype.type(np.pi)
    return (divided(y, np.sqrt((y * y).sum(-1, keepdims=True))) if normalise else y).astype(v.dtype)
