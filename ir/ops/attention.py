"""Softmax attention. Tokens come before heads, as a linear layer writes them, so that no transpose is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.signature import TypeFault, broadcast
from nomul.ir.types import DType, Tensor


def infer_attention(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    q, k, v, *rest = types
    assert q is not None and k is not None and v is not None
    if not q.rank == k.rank == v.rank == 4:
        raise TypeFault(f"attention takes rank 4 tensors [B, tokens, heads, size], not {q}, {k}, {v}")
    batch, queries, heads, size = q.shape
    if k.shape[0] != batch or v.shape[:3] != k.shape[:3] or k.shape[3] != size:
        raise TypeFault(f"keys {k} and values {v} do not fit queries {q}", 1)
    if heads.value is None or k.shape[2].value is None or int(heads) % int(k.shape[2]):
        raise TypeFault(f"{heads} query heads are not a multiple of {k.shape[2]} key heads", 1)
    if rest and rest[0] is not None:
        _check_mask(rest[0], (batch, heads, queries, k.shape[1]), q)
    return q.with_shape((batch, queries, heads, v.shape[3]))


def _check_mask(mask: Tensor, scores: tuple[Dim, ...], q: Tensor) -> None:
    if mask.dtype not in (q.dtype, DType.BOOL):
        raise TypeFault(f"the mask must be {q.dtype} or bool, but is {mask}", 3)
    if broadcast(mask.shape, scores, 3) != scores:
        raise TypeFault(f"mask {mask} does not broadcast to scores [{', '.join(map(str, scores))}]", 3)


@op("nn.attention", Kind.ANCHOR, infer=infer_attention)
def attention(
    q: "f[B, S, H, D]",
    k: "f[B, T, G, D]",
    v: "f[B, T, G, E]",
    mask: "t[_any] | None" = None,
    *,
    scale: float,
    causal: bool = False,
) -> "f[B, S, H, E]":
    """softmax(q k^T * scale + mask) v for each head; head h reads key head h // (H / G).

    mask broadcasts to [B, H, S, T]: added when float, True = may be seen when bool. causal: query s sees keys t <= s.
    A row that may see nothing gives 0. Sixteen-bit floats are computed as f32 and rounded once."""
    if q.dtype.itemsize == 2:
        mask = mask if mask is None or mask.dtype == np.bool_ else wide(mask)
        return attention.function(wide(q), wide(k), wide(v), mask, scale=scale, causal=causal).astype(q.dtype)
    k, v = (np.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("bshd,bthd->bhst", q, k) * q.dtype.type(scale)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == np.bool_ else scores + mask
    if causal:
        scores = np.where(np.tri(q.shape[1], k.shape[1], dtype=bool), scores, -np.inf)
    top = np.maximum(scores.max(-1, keepdims=True), np.finfo(q.dtype).min)
    e = np.exp(scores - top)
    total = e.sum(-1, keepdims=True)
    weights = np.where(total > 0, e / np.where(total > 0, total, 1), 0)
    return np.einsum("bhst,bthe->bshe", weights, v).astype(q.dtype)
