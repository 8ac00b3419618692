"""Softmax attention. Tokens come before heads, as a linear layer writes them, so that no transpose is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nomul.ir.attention import (
    Places,
    by_rows,
    byte_products,
    divided,
    in_bf16,
    limited,
    mixed,
    powers,
    products,
    shown,
    softmax,
    stored,
)
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.shapes import ONE, Shape
from nomul.ir.signature import TypeFault, broadcast
from nomul.ir.types import DType, Tensor

MASK, RELATIVE, LENGTHS, TILES = range(3, 7)  # positions of the optional operands


def check_heads(types: Sequence[Tensor | None]) -> None:
    """Whether q [B, S, H, D], k [B, T, G, D] and v [B, T, G, E] belong together. Raises TypeFault."""
    q, k, v = types[:3]
    assert q is not None and k is not None and v is not None
    if not q.rank == k.rank == v.rank == 4:
        raise TypeFault(f"attention takes rank 4 tensors [B, tokens, heads, size], not {q}, {k}, {v}")
    batch, _, heads, size = q.shape
    if k.shape[0] != batch or v.shape[:3] != k.shape[:3] or k.shape[3] != size:
        raise TypeFault(f"keys {k} and values {v} do not fit queries {q}", 1)
    if heads.value is None or k.shape[2].value is None or int(heads) % int(k.shape[2]):
        raise TypeFault(f"{heads} query heads are not a multiple of {k.shape[2]} key heads", 1)


def infer_heads(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    """The type of what attention gives, [B, S, H, E]."""
    check_heads(types)
    q, _, v = types[:3]
    assert q is not None and v is not None
    return q.with_shape((*q.shape[:3], v.shape[3]))


def infer_attention(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    result = infer_heads(types, attrs)
    q, k, *_ = types
    assert q is not None and k is not None
    mask, relative, lengths, tiles = (*types[MASK:], *(None,) * 4)[:4]
    batch, queries, heads, _ = q.shape
    scores = (batch, heads, queries, k.shape[1])
    if mask is not None:
        check_mask(mask, scores, q)
    if relative is not None:
        _check_relative(relative, scores)
    if lengths is not None and lengths.shape not in ((batch,), (ONE,)):
        raise TypeFault(f"{lengths} is not one length for each of {batch} sequences", LENGTHS)
    if tiles is not None:
        _check_tiles(tiles, scores, attrs["tile"])
    return result


def _check_relative(relative: Tensor, scores: Shape) -> None:
    _, heads, queries, keys = scores
    distances = queries + keys - 1
    if relative.shape not in ((heads, distances), (ONE, distances)):
        raise TypeFault(f"{relative} is no bias for {distances} distances of {heads} heads", RELATIVE)


def _check_tiles(tiles: Tensor, scores: Shape, size: int) -> None:
    wanted = (*scores[:2], *(ceil_div(extent, size) for extent in scores[2:]))
    if tiles.rank != 4 or broadcast(tiles.shape[:2], wanted[:2], TILES) != wanted[:2] or tiles.shape[2:] != wanted[2:]:
        raise TypeFault(f"{tiles} is no mask of tiles [{', '.join(map(str, wanted))}]", TILES)


def check_mask(mask: Tensor, scores: Shape, q: Tensor, position: int = MASK) -> None:
    """Whether the operand can be a mask of scores [B, H, S, T]. Raises TypeFault."""
    if mask.dtype not in (q.dtype, DType.BOOL):
        raise TypeFault(f"the mask must be {q.dtype} or bool, but is {mask}", position)
    if broadcast(mask.shape, scores, position) != scores:
        raise TypeFault(f"mask {mask} does not broadcast to scores [{', '.join(map(str, scores))}]", position)


def verify_attention(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    for name, least in (("block", 1), ("window", 0), ("tile", 1), ("softcap", 0.0)):
        if attrs[name] < least:
            raise TypeFault(f"{name}={attrs[name]} is too small a number")
    for name in ("offset", "prefix"):
        if (attrs[name].value or 0) < 0:
            raise TypeFault(f"{name}={attrs[name]} is negative")


@op("nn.attention", Kind.ANCHOR, infer=infer_attention, verify=verify_attention)
def attention(
    q: "f[B, S, H, D]",
    k: "f[B, T, G, D]",
    v: "f[B, T, G, E]",
    mask: "t[_any] | None" = None,
    relative: "f[_any] | None" = None,
    lengths: "i[_any] | None" = None,
    tiles: "b[_any] | None" = None,
    *,
    scale: float,
    scores: Literal["f32", "bf16", "i8"] = "f32",
    keys_values: Literal["f32", "i8", "i4"] = "f32",
    causal: bool = False,
    block: int = 1,
    prefix: Dim = Dim.of(0),
    window: int = 0,
    offset: Dim = Dim.of(0),
    softcap: float = 0.0,
    tile: int = 64,
) -> "f[B, S, H, E]":
    """softmax(scores) v for each head, with scores q k^T * scale; head h reads key head h // (H / G).

    scores = "i8": q and k are quantised first, each token's vector of a head by itself (nn.quantised_attention).
    scores = "bf16": q, k, v and exp(scores - the row's largest) are rounded to bf16, their products summed in f32.
    keys_values = "i8", "i4": k and v become integers of at most 127 or 7 times a scale first, each token's vector of a
    head by itself.
    softcap > 0: scores become softcap * tanh(scores / softcap). mask broadcasts to [B, H, S, T]: added when float,
    True = may be seen when bool. relative [H or 1, S + T - 1]: relative[h, t - s + S - 1] is added. Query s stands at
    p = s + offset and sees keys t by: causal: t // block <= p // block, or t < prefix; window > 0: |t - p| < window;
    lengths [B or 1]: t < lengths[b]; tiles [B or 1, H or 1, S / tile, T / tile] (rounded up): keys of True tiles. A
    row that may see nothing gives 0. Sixteen-bit floats are computed as f32 and rounded once."""
    places = Places(causal, block, int(prefix), window, int(offset))
    dtype, kind = q.dtype, wide(q).dtype
    if keys_values != "f32":
        k, v = (stored(x, keys_values) for x in (k, v))
    if scores == "bf16":
        q, k, v = (in_bf16(x) for x in (q, k, v))
    raw = byte_products(*by_rows(q), *by_rows(k), scale) if scores == "i8" else products(wide(q), wide(k), scale)
    raw = shown(limited(raw.astype(kind), softcap), mask, relative, lengths, tiles, places=places, tile=tile)
    if scores == "bf16":
        weights = powers(raw)
        return divided(mixed(in_bf16(weights), v), weights.sum(-1).swapaxes(1, 2)[..., None]).astype(dtype)
    return mixed(softmax(raw), wide(v)).astype(dtype)


def infer_quantised(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    q, _, k, _, v, *rest = types
    assert q is not None and k is not None and v is not None
    try:
        return infer_attention([q.with_dtype(v.dtype), k.with_dtype(v.dtype), v, *rest], attrs)
    except TypeFault as fault:  # it counts operands without the two scales
        operand = fault.operand if fault.operand is None else fault.operand + min(fault.operand, 2)
        raise TypeFault(fault.message, operand) from None


@op("nn.quantised_attention", Kind.ANCHOR, infer=infer_quantised, verify=verify_attention)
def quantised_attention(
    q: "i8[B, S, H, D]",
    q_scale: "f32[B, S, H]",
    k: "i8[B, T, G, D]",
    k_scale: "f32[B, T, G]",
    v: "f[B, T, G, E]",
    mask: "t[_any] | None" = None,
    relative: "f[_any] | None" = None,
    lengths: "i[_any] | None" = None,
    tiles: "b[_any] | None" = None,
    *,
    scale: float,
    causal: bool = False,
    block: int = 1,
    prefix: Dim = Dim.of(0),
    window: int = 0,
    offset: Dim = Dim.of(0),
    softcap: float = 0.0,
    tile: int = 64,
) -> "f[B, S, H, E]":
    """nn.attention of queries and keys from nn.quantise (lead = 3): scores are exact sums of integers, as f32 times
    q_scale * scale, times k_scale."""
    places = Places(causal, block, int(prefix), window, int(offset))
    raw = limited(byte_products(q, q_scale, k, k_scale, scale), softcap)
    weights = softmax(shown(raw, mask, relative, lengths, tiles, places=places, tile=tile))
    return mixed(weights, wide(v)).astype(v.dtype)
