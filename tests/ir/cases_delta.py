"""Attention by the delta rule against a matrix product for each token."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from cases import Case, numbers

TOKENS = 6
Q, K, V = numbers(2, TOKENS, 3, 4), numbers(2, TOKENS, 3, 4, seed=1), numbers(2, TOKENS, 3, 5, seed=2)
DECAY = -numbers(2, TOKENS, 3, 4, low=0.0, high=1.0)
RATES = numbers(2, TOKENS, 3, low=0.0, high=1.0, seed=10)


def delta_case(decays: bool) -> Case:
    """q_t S_t with S_t = (I - b k k^T) exp(g) S_(t-1) + b k v^T."""
    expected = np.zeros((2, TOKENS, 3, 5))
    for b, h in product(range(2), range(3)):
        state = torch.zeros(4, 5, dtype=torch.float64)
        q, k, v, g = (torch.from_numpy(x[b, :, h].astype(np.float64)) for x in (Q, K, V, DECAY))
        for i in range(TOKENS):
            rate = float(RATES[b, i, h])
            state = state * torch.exp(g[i])[:, None] if decays else state
            state = (torch.eye(4) - rate * torch.outer(k[i], k[i])) @ state + rate * torch.outer(k[i], v[i])
            expected[b, i, h] = q[i] @ state
    operands = [Q, K, V, RATES, DECAY] if decays else [Q, K, V, RATES]
    return Case("nn.delta_attention", operands, expected.astype(np.float32), {}, 1e-4)


DELTA = [delta_case(decays=False), delta_case(decays=True)]
