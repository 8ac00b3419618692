"""Linear attention that corrects what its state holds of a key in place of adding to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.ir.attention import repeated
from nomul.ir.numerics import wide
from nomul.ir.op import op
from nomul.ir.ops.attention import infer_heads
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor

BETA, DECAY = 3, 4  # positions of operands


def infer_delta(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    result = infer_heads(types, attrs)
    q, k, _, beta, *rest = types
    assert q is not None and k is not None and beta is not None
    if q.shape[1] != k.shape[1]:
        raise TypeFault(f"{q} and {k} must have equally many tokens", 1)
    if beta.shape != k.shape[:3]:
        raise TypeFault(f"{beta} is not one rate for each token and head of the keys {k}", BETA)
    decay = rest[0] if rest else None
    if decay is not None and decay.shape != k.shape:
        raise TypeFault(f"{decay} is no decay of the keys {k}", DECAY)
    return result


@op("nn.delta_attention", infer=infer_delta)
def delta_attention(
    q: "f[B, S, H, D]",
    k: "f[B, S, G, D]",
    v: "f[B, S, G, E]",
    beta: "f[_any]",
    decay: "f[_any] | None" = None,
) -> "f[B, S, H, E]":
    """The delta rule (Yang et al., "Gated delta networks", 2024): q_t M_t, M_t = M + beta_t k_t (v_t - k_t M)^T, where
    M is exp(decay_t) M_(t-1) along D, or M_(t-1) without a decay, and M_0 is 0. beta [B, S, G]; decay [B, S, G, D]."""
    heads = q.shape[2]
    queries, keys, values = wide(q), repeated(wide(k), heads), repeated(wide(v), heads)
    rates = repeated(wide(beta)[..., None], heads)
    shrink = np.ones_like(keys) if decay is None else np.exp(repeated(wide(decay), heads))
    state = np.zeros((q.shape[0], heads, q.shape[3], v.shape[3]), queries.dtype)
    y = np.zeros((*q.shape[:3], v.shape[3]), queries.dtype)
    for t in range(q.shape[1]):
        state = state * shrink[:, t, :, :, None]
        change = rates[:, t] * (values[:, t] - np.einsum("bhd,bhde->bhe", keys[:, t], state))
        state = state + keys[:, t, :, :, None] * change[:, :, None]
        y[:, t] = np.einsum("bhd,bhde->bhe", queries[:, t], state)
    return y.astype(q.dtype)
