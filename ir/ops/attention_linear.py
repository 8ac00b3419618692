"""Attention without softmax whose cost grows with the number of tokens, not its square."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.attention import divided, products, repeated, softmax, visible
from nomul.ir.attention import mixed as mix
from nomul.ir.numerics import wide
from nomul.ir.op import Kind, op
from nomul.ir.ops.attention import infer_heads
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor


def feature_map(x: np.ndarray, name: str) -> np.ndarray:
    """The positive features of queries and keys."""
    if name == "softmax":
        return softmax(x)
    maps = {"identity": lambda: x, "relu": lambda: np.maximum(x, 0), "exp": lambda: np.exp(x)}
    features = maps.get(name, lambda: np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))))()
    return features.astype(x.dtype)


def infer_linear(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    result = infer_heads(types, attrs)
    q, k, *_ = types
    assert q is not None and k is not None
    decay = types[3] if len(types) > 3 else None
    if attrs["causal"] and q.shape[1] != k.shape[1]:
        raise TypeFault(f"{q} and {k} must have equally many tokens where queries see earlier keys only", 1)
    if decay is not None and (decay.shape != k.shape or not attrs["causal"]):
        raise TypeFault(f"{decay} is no decay of the keys {k} of a causal attention", 3)
    return result


@op("nn.linear_attention", infer=infer_linear)
def linear_attention(
    q: "f[B, S, H, D]",
    k: "f[B, T, G, D]",
    v: "f[B, T, G, E]",
    decay: "f[_any] | None" = None,
    *,
    map: Literal["identity", "elu", "relu", "exp", "softmax"] = "identity",
    causal: bool = False,
    normalise: bool = True,
    eps: float = 0.0,
) -> "f[B, S, H, E]":
    """phi(q) M / (phi(q) z + eps), M the sum of phi(k) v^T and z of phi(k) over keys, or over keys t <= s where causal
    (Katharopoulos et al. 2020). 0 where the divisor is 0; without normalise nothing divides.

    phi: map, element by element ("elu": elu(x) + 1), or softmax over the elements of a head. decay [B, T, G, D]: before
    key t is added, M and z shrink by exp(decay[t]) along D (Yang et al., "Gated linear attention", 2024)."""
    queries, keys, values = feature_map(wide(q), map), feature_map(wide(k), map), wide(v)
    heads = q.shape[2]
    keys, values = repeated(keys, heads), repeated(values, heads)
    if not causal:
        sums, total = np.einsum("bthd,bthe->bhde", keys, values), keys.sum(1)
        y = np.einsum("bshd,bhde->bshe", queries, sums)
        divisor = np.einsum("bshd,bhd->bsh", queries, total)
    else:
        shrink = np.ones_like(keys) if decay is None else np.exp(repeated(wide(decay), heads))
        y, divisor = _recurrent(queries, keys, values, shrink)
    return (divided(y, divisor[..., None] + y.dtype.type(eps)) if normalise else y).astype(q.dtype)


def _recurrent(q: np.ndarray, k: np.ndarray, v: np.ndarray, shrink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(results, divisors), token by token."""
    batch, tokens, heads, size = q.shape
    sums, total = np.zeros((batch, heads, size, v.shape[3]), q.dtype), np.zeros((batch, heads, size), q.dtype)
    y, divisor = np.zeros((*q.shape[:3], v.shape[3]), q.dtype), np.zeros(q.shape[:3], q.dtype)
    for t in range(tokens):
        sums = sums * shrink[:, t, :, :, None] + k[:, t, :, :, None] * v[:, t, :, None]
        total = total * shrink[:, t] + k[:, t]
        y[:, t] = np.einsum("bhd,bhde->bhe", q[:, t], sums)
        divisor[:, t] = np.einsum("bhd,bhd->bh", q[:, t], total)
    return y, divisor


def infer_hedgehog(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, w = types
    assert x is not None and w is not None
    return x.with_shape((*x.shape[:3], w.shape[2] * 2))


@op("nn.hedgehog_map", Kind.COMPOSED, infer=infer_hedgehog)
def hedgehog_map(x: "f[B, S, H, D]", w: "f[H, D, F]", *, form: Literal["softmax", "exp"] = "softmax") -> "f[...]":
    """Learned features [f(x w), f(-x w)] of size 2F for linear attention (Zhang et al., "The Hedgehog", 2024), at least
    1e-12; f is softmax over F, or exp of what is below the maximum."""
    y = np.einsum("bshd,hdf->bshf", wide(x), wide(w))
    parts = [y, -y]
    if form == "softmax":
        features = [softmax(part) for part in parts]
    else:
        features = [np.exp(part - part.max(-1, keepdims=True)) for part in parts]
    return np.maximum(np.concatenate(features, -1), 1e-12).astype(x.dtype)


def check_local(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    q = types[0]
    local = types[3] if len(types) > 3 else None
    if local is None or q is None:
        return
    if attrs["width"] < 1 or q.shape[1].value is None or int(q.shape[1]) % attrs["width"]:
        raise TypeFault(f"{q.shape[1]} tokens are no image of width {attrs['width']}", 0)


@op("nn.inline_attention", Kind.COMPOSED, verify=check_local)
def inline_attention(
    q: "f[B, S, H, D]",
    k: "f[B, T, H, D]",
    v: "f[B, T, H, E]",
    local: "f[B, 9, H, E] | None" = None,
    *,
    scale: float,
    width: int = 0,
) -> "f[B, S, H, E]":
    """Injective linear attention (Han et al., "Bridging the divide", 2024): weights q_i . k_j * scale / T, less their
    mean over keys, plus 1 / T; so q (k^T v scale / T) + (1 - q . mean(k) scale) mean(v), without a division.

    local: weights of the 3 x 3 neighbours of each token in an image of that width, which are added (S = T)."""
    queries, keys, values = wide(q), wide(k), wide(v)
    scale = queries.dtype.type(scale)
    sums = np.einsum("bthd,bthe->bhde", keys, values) * scale / queries.dtype.type(k.shape[1])
    rest = 1 - np.einsum("bshd,bhd->bsh", queries, keys.mean(1)) * scale
    y = np.einsum("bshd,bhde->bshe", queries, sums) + rest[..., None] * values.mean(1)[:, None]
    if local is not None:
        image = values.reshape(v.shape[0], -1, width, *v.shape[2:])
        padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0)))
        rows = image.shape[1]
        for place in range(9):
            part = padded[:, place // 3 : place // 3 + rows, place % 3 : place % 3 + width]
            y = y + part.reshape(v.shape) * wide(local)[:, None, place]
    return y.astype(q.dtype)


def check_liger(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> None:
    decay, k = types[5], types[1]
    assert decay is not None and k is not None
    if decay.shape != k.shape:
        raise TypeFault(f"{decay} is no decay of the keys {k}", 5)
    if attrs["window"] < 1:
        raise TypeFault(f"window={attrs['window']} is too small a number")


@op("nn.liger_attention", Kind.COMPOSED, infer=infer_heads, verify=check_liger)
def liger_attention(
    q: "f[B, S, H, D]",
    k: "f[B, S, G, D]",
    v: "f[B, S, G, E]",
    q_rotary: "f[B, S, H, R]",
    k_rotary: "f[B, S, G, R]",
    decay: "f[_any]",
    *,
    scale: float,
    window: int = 64,
) -> "f[B, S, H, E]":
    """Half of gated linear attention of softmax(q), softmax(k) over the elements of a head, and half of causal softmax
    attention of q_rotary, k_rotary over the last `window` keys (Lan et al., "Liger", 2025)."""
    gated = linear_attention.function(q, k, wide(v), wide(decay), map="softmax", causal=True, normalise=False)
    scores = products(wide(q_rotary), wide(k_rotary), scale)
    rules = {"causal": True, "block": 1, "prefix": 0, "window": window, "offset": 0}
    near = visible(q.shape[1], q.shape[1], **rules)
    local = mix(softmax(np.where(near, scores, -np.inf)), wide(v))
    return ((wide(gated) + local) * local.dtype.type(0.5)).astype(q.dtype)
