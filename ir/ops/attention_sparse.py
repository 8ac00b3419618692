"""Attention that treats some pairs of tokens in full and summarises or skips others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.attention import divided, mixed, products, softmax
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.ops.attention_linear import feature_map
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor


def check_blocks(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    k = types[1]
    assert k is not None
    if attrs["block"] < 1:
        raise TypeFault(f"block={attrs['block']} is too small a number")
    excess = (attrs["critical"] + attrs["negligible"] - ceil_div(k.shape[1], attrs["block"])).value
    if (attrs["critical"].value or 1) < 1 or (attrs["negligible"].value or 0) < 0 or (excess or 0) > 0:
        raise TypeFault(f"{attrs['critical']} critical and {attrs['negligible']} negligible blocks do not fit {k}", 1)


@op("nn.sparse_linear_attention", Kind.COMPOSED, verify=check_blocks)
def sparse_linear_attention(
    q: "f[B, S, H, D]",
    k: "f[B, T, H, D]",
    v: "f[B, T, H, E]",
    projection: "f[E, E] | None" = None,
    bias: "f[E] | None" = None,
    *,
    scale: float,
    critical: Dim,
    negligible: Dim = Dim.of(0),
    block: int = 64,
    map: Literal["identity", "elu", "relu", "exp", "softmax"] = "softmax",
    rest: Literal["marginal", "all"] = "marginal",
    eps: float = 0.0,
) -> "f[B, S, H, E]":
    """Softmax attention of each block of queries to its critical blocks of keys, plus linear attention to the rest
    times projection^T plus bias (Zhang et al., "SLA", 2025).

    Blocks are ranked by the products of their mean queries and keys: the first `critical` and the last `negligible`,
    which are skipped; lower places win ties. rest: "marginal", the linear part is over the blocks between (first
    release); "all", over all keys (second release)."""
    queries, keys, values = wide(q), wide(k), wide(v)
    scores = products(_pooled(queries, block), _pooled(keys, block), 1.0)
    near = _ranked(-scores, int(critical))
    kept = near.repeat(block, 2).repeat(block, 3)[:, :, : q.shape[1], : k.shape[1]]
    sparse = mixed(softmax(np.where(kept, products(queries, keys, scale), -np.inf)), values)
    features, key_features = feature_map(queries, map), feature_map(keys, map)
    linear = products(features, key_features, 1.0)
    if rest == "marginal":
        between = ~near & ~_ranked(scores, int(negligible))
        linear = np.where(between.repeat(block, 2).repeat(block, 3)[:, :, : q.shape[1], : k.shape[1]], linear, 0)
    linear = mixed(divided(linear, linear.sum(-1, keepdims=True) + linear.dtype.type(eps)), values)
    linear = linear if projection is None else linear @ wide(projection).T
    linear = linear if bias is None else linear + wide(bias)
    return (sparse + linear).astype(q.dtype)


def _pooled(x: np.ndarray, block: int) -> np.ndarray:
    """Means of blocks of tokens; the last block may be short."""
    starts = np.arange(0, x.shape[1], block)
    counts = np.minimum(starts + block, x.shape[1]) - starts
    return (np.add.reduceat(x, starts, axis=1) / counts[:, None, None]).astype(x.dtype)


def _ranked(x: np.ndarray, count: int) -> np.ndarray:
    """True at the `count` smallest of each row."""
    chosen = np.zeros(x.shape, np.bool_)
    np.put_along_axis(chosen, np.argsort(x, axis=-1, kind="stable")[..., :count], True, axis=-1)
    return chosen


@op("nn.calibrated_attention", Kind.COMPOSED)
def calibrated_attention(
    q: "f[B, S, H, D]",
    k: "f[B, S, H, D]",
    v: "f[B, S, H, E]",
    *,
    scale: float,
    causal: bool = False,
    threshold: float = 0.1,
    beta: float = 0.4,
    heads: tuple[int, ...] = (),
) -> "f[B, S, H, E]":
    """Softmax attention whose sinks are calmed (Yu et al., "ACT", 2024): a key other than the first such whose weight,
    averaged over the queries that may see it, is above the threshold keeps `beta` of its weight; the other keys of the
    row gain the rest in proportion. Row 0 stays. heads: where this is done (none named: everywhere)."""
    scores = products(wide(q), wide(k), scale)
    tokens = q.shape[1]
    seen = np.tri(tokens, dtype=bool) if causal else np.ones((tokens, tokens), np.bool_)
    weights = softmax(np.where(seen, scores, -np.inf))
    return mixed(calibrated(weights, seen, threshold, beta, heads), wide(v)).astype(q.dtype)


def calibrated(
    weights: np.ndarray, seen: np.ndarray, threshold: float, beta: float, heads: tuple[int, ...] = ()
) -> np.ndarray:
    """Weights [B, H, S, S] of which seen [S, S] says where they count, with calmed sinks; as the op defines it."""
    sinks = sinks_of(weights, seen, threshold)
    calm = np.where(sinks, weights * weights.dtype.type(beta), 0)
    others = np.where(sinks, 0, weights)
    remaining = 1 - calm.sum(-1, keepdims=True)
    changed = calm + divided(others * remaining, others.sum(-1, keepdims=True))
    places = np.arange(weights.shape[1])
    chosen = np.isin(places, heads or places)[:, None, None]
    use = chosen & (np.arange(weights.shape[2]) > 0)[:, None] & (others.sum(-1, keepdims=True) > 0)
    return np.where(use, changed, weights)


def sinks_of(weights: np.ndarray, seen: np.ndarray, threshold: float) -> np.ndarray:
    """bool [B, H, 1, S]: keys with a mean weight above the threshold, but for the first."""
    large = weights.sum(2, keepdims=True) / seen.sum(0).astype(weights.dtype) > threshold
    sinks: np.ndarray = large & (np.cumsum(large, -1) > 1)
    return sinks
