"""Attention whose state shrinks or is corrected from token to token, against its formulas."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from cases import Case, numbers

TOKENS = 6
Q, K, V = numbers(2, TOKENS, 3, 4), numbers(2, TOKENS, 3, 4, seed=1), numbers(2, TOKENS, 3, 5, seed=2)
BATCH_HEADS = list(product(range(2), range(3)))
RATES = numbers(2, TOKENS, 3, low=0.0, high=1.0, seed=10)


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float64))


DECAY = -numbers(2, TOKENS, 3, 4, low=0.0, high=1.0)


def gated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """sum over j <= i of q_i . (k_j exp(g_{j+1} + ... + g_i)) v_j."""
    rows = []
    for i in range(TOKENS):
        row = torch.zeros(v.shape[1], dtype=torch.float64)
        for j in range(i + 1):
            row += (q[i] * k[j] * torch.exp(g[j + 1 : i + 1].sum(0))).sum() * v[j]
        rows.append(row)
    return torch.stack(rows)


def gated_case() -> Case:
    expected = np.stack(
        [np.stack([gated(*(t(x[b, :, h]) for x in (Q, K, V, DECAY))) for h in range(3)], 1) for b in range(2)]
    )
    return Case(
        "nn.linear_attention", [Q, K, V, DECAY], expected.astype(np.float32), {"causal": True, "normalise": False}, 1e-5
    )


LIGER_Q, LIGER_K = numbers(2, TOKENS, 3, 4, seed=8), numbers(2, TOKENS, 3, 4, seed=9)


def liger() -> np.ndarray:
    result = np.zeros((2, TOKENS, 3, 5))
    near = torch.tril(torch.ones(TOKENS, TOKENS)).triu(-2) > 0
    for b, h in BATCH_HEADS:
        q, k, v, g, q_turned, k_turned = (t(x[b, :, h]) for x in (Q, K, V, DECAY, LIGER_Q, LIGER_K))
        scores = (q_turned @ k_turned.T * 0.5).masked_fill(~near, -torch.inf)
        slow = gated(torch.softmax(q, -1), torch.softmax(k, -1), v, g)
        result[b, :, h] = 0.5 * slow + 0.5 * torch.softmax(scores, -1) @ v
    return result.astype(np.float32)


def delta_case(decays: bool) -> Case:
    """q_t S_t with S_t = (I - b k k^T) exp(g) S_(t-1) + b k v^T."""
    expected = np.zeros((2, TOKENS, 3, 5))
    for b, h in BATCH_HEADS:
        state = torch.zeros(4, 5, dtype=torch.float64)
        q, k, v, g = (t(x[b, :, h]) for x in (Q, K, V, DECAY))
        for i in range(TOKENS):
            rate = float(RATES[b, i, h])
            state = state * torch.exp(g[i])[:, None] if decays else state
            state = (torch.eye(4) - rate * torch.outer(k[i], k[i])) @ state + rate * torch.outer(k[i], v[i])
            expected[b, i, h] = q[i] @ state
    operands = [Q, K, V, RATES, DECAY] if decays else [Q, K, V, RATES]
    return Case("nn.delta_attention", operands, expected.astype(np.float32), {}, 1e-4)


STATES = [
    gated_case(),
    Case("nn.liger_attention", [Q, K, V, LIGER_Q, LIGER_K, DECAY], liger(), {"scale": 0.5, "window": 3}, 1e-5),
    delta_case(decays=False),
    delta_case(decays=True),
]
