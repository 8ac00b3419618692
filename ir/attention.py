"""What the attention ops share: which keys a query may see, scores and weights, heads that several queries read."""

from __future__ import annotations

import numpy as np


def visible(
    queries: int, keys: int, *, causal: bool, block: int, prefix: int, window: int, offset: int
) -> np.ndarray | None:
    """Who may see whom [queries, keys], or None where everyone sees everything. Query s stands at p = s + offset.

    causal: keys t of p's block of `block` tokens and of earlier blocks, and those with t < prefix.
    window (0: none): of them, those with |t - p| < window."""
    if not causal and not window:
        return None
    places, tokens = np.arange(queries)[:, None] + offset, np.arange(keys)
    seen = np.ones((queries, keys), np.bool_)
    if causal:
        seen &= (tokens // block <= places // block) | (tokens < prefix)
    if window:
        seen &= np.abs(tokens - places) < window
    return seen


def repeated(x: np.ndarray, heads: int) -> np.ndarray:
    """Keys or values [B, T, G, D] once for each of `heads` query heads: head h reads h // (heads / G)."""
    return x if x.shape[2] == heads else np.repeat(x, heads // x.shape[2], axis=2)


def products(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    """q k^T * scale [B, H, S, T] for each head of q [B, S, H, D]; k has as many heads or fewer."""
    scores: np.ndarray = np.einsum("bshd,bthd->bhst", q, repeated(k, q.shape[2])) * q.dtype.type(scale)
    return scores


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; rows of nothing but minus infinity give zeros."""
    e = np.exp(scores - np.maximum(scores.max(-1, keepdims=True, initial=-np.inf), np.finfo(scores.dtype).min))
    return divided(e, e.sum(-1, keepdims=True))


def divided(x: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """x / divisor, and 0 where the divisor is 0."""
    nothing = divisor == 0
    return np.where(nothing, 0, x / np.where(nothing, 1, divisor)).astype(x.dtype)


def mixed(weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[B, S, H, E] from weights [B, H, S, T] and values [B, T, G, E]."""
    result: np.ndarray = np.einsum("bhst,bthe->bshe", weights, repeated(v, weights.shape[1]))
    return result
