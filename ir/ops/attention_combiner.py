"""Combiner: attention to near tokens directly and to far ones through summaries of their spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.attention import softmax
from nomul.ir.dim import Dim
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor


def check_segments(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    q = types[0]
    assert q is not None
    if not attrs["segment"].divides(q.shape[1]):
        raise TypeFault(f"segments of {attrs['segment']} do not divide {q.shape[1]} tokens", 0)
    if attrs["pattern"] == "axial" and not attrs["causal"]:
        raise TypeFault("the axial pattern is for causal attention")


@op("nn.combiner_attention", Kind.COMPOSED, verify=check_segments)
def combiner_attention(
    q: "f[B, S, H, D]",
    k: "f[B, S, H, D]",
    v: "f[B, S, H, E]",
    *,
    scale: float,
    segment: Dim,
    pattern: Literal["fixed", "axial"] = "fixed",
    causal: bool = False,
) -> "f[B, S, H, E]":
    """Full attention at a lower cost (Ren et al., "Combiner", 2021): one softmax over direct keys and over spans of
    keys; a span's key is its maximum, its value the attention of its maximal query within it.

    fixed: direct are the keys of the own segment (t <= s where causal), spans the other segments (the earlier ones).
    axial: rows of `segment` tokens; direct are the own column up to s and the own row before it, spans the other
    columns down to the row above."""
    batch, tokens, heads, _ = q.shape
    width = int(segment)
    grid = [wide(x).reshape(batch, tokens // width, width, heads, -1).transpose(0, 3, 1, 2, 4) for x in (q, k, v)]
    scale = grid[0].dtype.type(scale)
    y = (_fixed if pattern == "fixed" else _axial)(*grid, scale, causal)
    return y.transpose(0, 2, 3, 1, 4).reshape(batch, tokens, heads, -1).astype(q.dtype)


def _summaries(k: np.ndarray, v: np.ndarray, query: np.ndarray, scale: np.floating) -> np.ndarray:
    """Values [..., E] of spans of keys [..., n, D] for one query [..., D] each."""
    weights = softmax(np.einsum("...nd,...d->...n", k, query) * scale)
    return np.einsum("...n,...ne->...e", weights, v)


def _fixed(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: np.floating, causal: bool) -> np.ndarray:
    """Operands [B, H, segments, width, ...]."""
    segments, width = q.shape[2:4]
    spans = _summaries(k, v, q.max(3), scale)
    direct = np.einsum("bhnid,bhnjd->bhnij", q, k) * scale
    far = np.einsum("bhnid,bhrd->bhnir", q, k.max(3)) * scale
    if causal:
        direct = np.where(np.tri(width, dtype=bool), direct, -np.inf)
    other = np.tri(segments, k=-1, dtype=bool) if causal else ~np.eye(segments, dtype=bool)
    far = np.where(other[:, None], far, -np.inf)
    weights = softmax(np.concatenate([direct, far], -1))
    near = np.einsum("bhnij,bhnje->bhnie", weights[..., :width], v)
    return near + np.einsum("bhnir,bhre->bhnie", weights[..., width:], spans)


def _axial(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: np.floating, causal: bool) -> np.ndarray:
    """Operands [B, H, rows, width, ...]."""
    rows, width = q.shape[2:4]
    lowest = np.finfo(q.dtype).min
    above = np.tri(rows, k=-1, dtype=bool)[:, :, None, None]  # [row, row of a key, 1, 1]
    keys, queries = (np.where(above, x[:, :, None], lowest).max(3) for x in (k, q))  # [B, H, row, column, D]
    inside = np.where(above[..., 0], np.einsum("bhjcd,bhicd->bhijc", k, queries) * scale, lowest)
    spans = np.einsum("bhijc,bhjce->bhice", softmax(inside.transpose(0, 1, 2, 4, 3)).transpose(0, 1, 2, 4, 3), v)
    column = np.einsum("bhicd,bhjcd->bhicj", q, k) * scale
    column = np.where(np.tri(rows, dtype=bool)[:, None], column, -np.inf)
    row = np.where(np.tri(width, k=-1, dtype=bool), np.einsum("bhicd,bhird->bhicr", q, k) * scale, -np.inf)
    far = np.einsum("bhicd,bhird->bhicr", q, np.where(above.any(1, keepdims=True)[:, 0], keys, 0)) * scale
    far = np.where(~np.eye(width, dtype=bool) & (np.arange(rows) > 0)[:, None, None], far, -np.inf)
    weights = softmax(np.concatenate([column, row, far], -1))
    y = np.einsum("bhicj,bhjce->bhice", weights[..., :rows], v)
    y = y + np.einsum("bhicr,bhire->bhice", weights[..., rows : rows + width], v)
    return y + np.einsum("bhicr,bhire->bhice", weights[..., rows + width :], spans)
