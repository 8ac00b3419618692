"""Attention over channels, and attention whose rows are functions that were learned."""

from __future__ import annotations

import numpy as np

from nomul.ir.attention import mixed, products, softmax
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op


@op("nn.cross_covariance_attention", Kind.COMPOSED)
def cross_covariance_attention(
    q: "f[B, S, H, D]", k: "f[B, S, H, D]", v: "f[B, S, H, D]", temperature: "f[H] | None" = None
) -> "f[B, S, H, D]":
    """Channels attend to channels (El-Nouby et al., "XCiT", 2021): softmax(q^T k temperature) [D, D] of each head, its
    columns of length 1 over all tokens, times v^T."""

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.maximum(np.sqrt((x * x).sum(1, keepdims=True)), x.dtype.type(1e-12))

    scores = np.einsum("bshd,bshe->bhde", unit(wide(q)), unit(wide(k)))
    scores = scores if temperature is None else scores * wide(temperature)[:, None, None]
    return np.einsum("bhde,bshe->bshd", softmax(scores), wide(v)).astype(q.dtype)


@op("nn.kolmogorov_arnold_attention", Kind.COMPOSED)
def kolmogorov_arnold_attention(
    q: "f[B, S, H, D]",
    k: "f[B, T, H, D]",
    v: "f[B, T, H, E]",
    cosine: "f[H, R, T, G]",
    sine: "f[H, R, T, G]",
    projection: "f[H, T, R]",
    *,
    scale: float,
) -> "f[B, S, H, E]":
    """Fourier-KArAt (Maity et al., "Kolmogorov-Arnold attention", 2025): in place of softmax, a row a = q k^T * scale
    becomes projection x, x[r] the sum over keys t and m = 1..G of cosine[r, t, m] cos(m a[t]) + sine[r, t, m] sin(m
    a[t])."""
    scores = products(wide(q), wide(k), scale)
    multiples = scores[..., None] * np.arange(1, cosine.shape[3] + 1).astype(scores.dtype)
    x = np.einsum("bhstg,hrtg->bhsr", np.cos(multiples), wide(cosine))
    x = x + np.einsum("bhstg,hrtg->bhsr", np.sin(multiples), wide(sine))
    return mixed(np.einsum("bhsr,htr->bhst", x, wide(projection)), wide(v)).astype(q.dtype)
