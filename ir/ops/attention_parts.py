"""Softmax attention of few queries in two steps: runs of keys by themselves, then all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.ir.attention import Places, divided, limited, products, repeated, restored, shown
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.op import Kind, op
from nomul.ir.ops.attention import infer_attention, verify_attention
from nomul.ir.signature import TypeFault
from nomul.ir.types import DType, Tensor

_STORED = (DType.F32, DType.I8, DType.U8)
_SCALES = 3  # behind the values
STATE = 2  # numbers behind the sums of a part: the largest score, the total of the weights


def infer_parts(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    if attrs["chunk"] < 1:
        raise TypeFault(f"chunk={attrs['chunk']} is too small a number")
    q, k, v, *rest = types
    assert q is not None and k is not None and v is not None
    if k.dtype not in _STORED:
        raise TypeFault(f"keys and values are f32, i8 or u8, not {k.dtype}", 1)
    keys, values = (_restored(x, *rest[_SCALES + i : _SCALES + i + 1], position=1 + i) for i, x in enumerate((k, v)))
    result = infer_attention([q, keys, values, *rest[:_SCALES]], attrs)
    batch, queries, heads, width = result.shape
    return result.with_shape((batch, ceil_div(keys.shape[1], attrs["chunk"]), queries, heads, width + STATE))


def _restored(x: Tensor, scale: Tensor | None = None, *, position: int) -> Tensor:
    """The type of keys or values as f32. Raises TypeFault where the scale does not belong to it."""
    if (x.dtype is DType.F32) != (scale is None):
        raise TypeFault(f"{x} comes {'without' if scale is not None else 'with'} a scale for each vector", position)
    if scale is not None and scale.shape != x.shape[:-1]:
        raise TypeFault(f"{scale} does not have a scale for each vector of {x}", position)
    last = x.shape[-1] * 2 if x.dtype is DType.U8 else x.shape[-1]
    return Tensor(DType.F32, (*x.shape[:-1], last))


def verify_parts(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    verify_attention(types, attrs | {"tile": 1})


@op("nn.attention_parts", Kind.ANCHOR, infer=infer_parts, verify=verify_parts)
def attention_parts(
    q: "f32[B, S, H, D]",
    k: "u[_any]",
    v: "u[_any]",
    mask: "t[_any] | None" = None,
    relative: "f32[_any] | None" = None,
    lengths: "i[_any] | None" = None,
    k_scale: "f32[_any] | None" = None,
    v_scale: "f32[_any] | None" = None,
    *,
    chunk: int,
    scale: float,
    causal: bool = False,
    block: int = 1,
    prefix: Dim = Dim.of(0),
    window: int = 0,
    offset: Dim = Dim.of(0),
    softcap: float = 0.0,
) -> "f32[...]":
    """nn.attention of each run of `chunk` keys by itself, [B, T / chunk (rounded up), S, H, E + 2]: the sums of values
    by exp(score - largest score), the largest score, the sum of these weights (Dao et al., "Flash-Decoding", 2023).

    k [B, T, G, D] and v [B, T, G, E] are f32, or what keys_values of nn.attention makes of them: i8, or u8 that hold
    two codes each, plus 8 (low nibbles: the first half of a vector), with k_scale and v_scale [B, T, G]."""
    if k_scale is not None and v_scale is not None:
        k, v = restored(k, k_scale), restored(v, v_scale)
    places = Places(causal, block, int(prefix), window, int(offset))
    scores = shown(limited(products(q, k, scale), softcap), mask, relative, lengths, places=places)
    batch, heads, queries, keys = scores.shape
    behind = -keys % chunk
    scores = np.pad(scores, [(0, 0)] * 3 + [(0, behind)], constant_values=-np.inf)
    scores = scores.reshape(batch, heads, queries, -1, chunk)
    values = np.pad(repeated(v, heads), [(0, 0), (0, behind), (0, 0), (0, 0)])
    values = values.reshape(batch, -1, chunk, heads, v.shape[3])
    largest = np.maximum(scores.max(-1), np.finfo(np.float32).min)
    weights = np.exp(scores - largest[..., None])
    sums = np.einsum("bhsct,bcthe->bcshe", weights, values)
    state = (np.moveaxis(x, 3, 1).swapaxes(2, 3)[..., None] for x in (largest, weights.sum(-1)))
    return np.concatenate([sums, *state], axis=-1)


def infer_merge(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    parts = types[0]
    assert parts is not None
    if parts.rank != 5 or (parts.shape[4].value or STATE + 1) <= STATE:
        raise TypeFault(f"{parts} is no result of nn.attention_parts", 0)
    return parts.with_shape((parts.shape[0], *parts.shape[2:4], parts.shape[4] - STATE))


@op("nn.attention_merge", Kind.ANCHOR, infer=infer_merge)
def attention_merge(parts: "f32[B, C, S, H, W]") -> "f32[...]":
    """What nn.attention gives [B, S, H, W - 2], from nn.attention_parts: sums and totals by exp(largest score of the
    part - largest score of all), then sums / totals."""
    sums, largest, totals = parts[..., :-STATE], parts[..., -2], parts[..., -1]
    shares = np.exp(largest - largest.max(1, keepdims=True))
    return divided((sums * shares[..., None]).sum(1), (totals * shares).sum(1)[..., None])
