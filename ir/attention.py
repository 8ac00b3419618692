"""What the attention ops share: which keys a query may see, scores and weights, heads that several queries read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.numerics import wide
from nomul.ir.quantise import LEVELS, quantise
from nomul.ir.types import DType

STORED = {"i8": LEVELS, "i4": 7}  # how keys and values may be kept: the largest code


@dataclass(frozen=True)
class Places:
    """Which keys a query may see by its place alone; the attributes of nn.attention with these names."""

    causal: bool
    block: int
    prefix: int
    window: int
    offset: int


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


def by_rows(x: np.ndarray, levels: int = LEVELS) -> tuple[np.ndarray, np.ndarray]:
    """[B, S, H, D] in eight bits, and the scales [B, S, H]: each token's vector of a head by itself."""
    q, scale = quantise(x.reshape(-1, x.shape[-1]), "i8", 0.0, levels)
    return q.reshape(x.shape), scale.reshape(x.shape[:-1])


def stored(x: np.ndarray, kind: str) -> np.ndarray:
    """f32 [B, T, G, D] of keys or values as what `kind` of STORED keeps of them."""
    codes, scale = by_rows(x, STORED[kind])
    return restored(codes, scale)


def restored(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32 numbers of codes [B, T, G, D] of i8, or of u8 that hold two each [B, T, G, D / 2] (the first half of a vector
    in the low nibbles, 8 more than the code), and their scales [B, T, G]."""
    if codes.dtype == np.uint8:
        codes = np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.int8) - np.int8(8)
    return codes.astype(np.float32) * scale[..., None]


def byte_products(q: np.ndarray, q_scale: np.ndarray, k: np.ndarray, k_scale: np.ndarray, scale: float) -> np.ndarray:
    """f32 [B, H, S, T] of what `by_rows` gives: exact sums of integers, times q_scale * scale, times k_scale."""
    sums = np.einsum("bshd,bthd->bhst", q.astype(np.float64), repeated(k, q.shape[2]).astype(np.float64))
    of_query = (q_scale * np.float32(scale)).transpose(0, 2, 1)[..., None]
    of_key = repeated(k_scale[..., None], q.shape[2])[..., 0].transpose(0, 2, 1)[:, :, None]
    result: np.ndarray = sums.astype(np.float32) * of_query * of_key
    return result


def limited(scores: np.ndarray, softcap: float) -> np.ndarray:
    """softcap * tanh(scores / softcap) where there is a soft cap."""
    return softcap * np.tanh(scores / scores.dtype.type(softcap)) if softcap else scores


def shown(
    scores: np.ndarray,
    mask: np.ndarray | None,
    relative: np.ndarray | None,
    lengths: np.ndarray | None,
    tiles: np.ndarray | None = None,
    *,
    places: Places,
    tile: int = 1,
) -> np.ndarray:
    """Scores [B, H, S, T] with mask and bias added, and minus infinity for keys that a query may not see."""
    dtype = scores.dtype
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + wide(mask)
    queries, keys = scores.shape[2:]
    if relative is not None:
        distance = np.arange(keys) - np.arange(queries)[:, None] + (queries - 1)
        scores = scores + wide(relative)[:, distance]
    seen = visible(queries, keys, **vars(places))
    if seen is not None:
        scores = np.where(seen, scores, -np.inf)
    if lengths is not None:
        scores = np.where(np.arange(keys) < lengths[:, None, None, None], scores, -np.inf)
    if tiles is not None:
        kept = tiles.repeat(tile, axis=2).repeat(tile, axis=3)[:, :, :queries, :keys]
        scores = np.where(kept, scores, -np.inf)
    return scores.astype(dtype)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; rows of nothing but minus infinity give zeros."""
    e = powers(scores)
    return divided(e, e.sum(-1, keepdims=True))


def powers(scores: np.ndarray) -> np.ndarray:
    """exp(scores - the largest of the last axis); 0 where all of them are minus infinity."""
    largest = np.maximum(scores.max(-1, keepdims=True, initial=-np.inf), np.finfo(scores.dtype).min)
    result: np.ndarray = np.exp(scores - largest)
    return result


def in_bf16(x: np.ndarray) -> np.ndarray:
    """f32 numbers, rounded to bf16."""
    return x.astype(DType.BF16.numpy).astype(np.float32)


def divided(x: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    """x / divisor, and 0 where the divisor is 0."""
    nothing = divisor == 0
    return np.where(nothing, 0, x / np.where(nothing, 1, divisor)).astype(x.dtype)


def mixed(weights: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[B, S, H, E] from weights [B, H, S, T] and values [B, T, G, E]."""
    result: np.ndarray = np.einsum("bhst,bthe->bshe", weights, repeated(v, weights.shape[1]))
    return result
