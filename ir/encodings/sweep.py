"""A search for the scale of least squared error, over groups that are rounded to integers."""

from __future__ import annotations

import numpy as np

_AT_ONCE = 1 << 18  # weights; a chunk of rows stays in the cache for the whole sweep


def swept_scale(groups: np.ndarray, limit: int) -> np.ndarray:
    """f64 [N, G]: for each group of [N, G, g] the best of absmax / d when rounded to integers in [-limit, limit].

    d runs over [limit - 0.75, limit + 1.25] in 64 steps (tied trit planes, arXiv 2608.08910), and over 1, 2, .. limit,
    so that weights that are such integers times a scale are found again."""
    rows = max(1, _AT_ONCE // (groups.shape[1] * groups.shape[2]))
    return np.concatenate([_swept(groups[begin : begin + rows], limit) for begin in range(0, len(groups), rows)])


def _swept(groups: np.ndarray, limit: int) -> np.ndarray:
    most = np.abs(groups).max(-1)
    unit = np.divide(groups, most[..., None], out=np.zeros(groups.shape), where=most[..., None] > 0).astype(np.float32)
    best, least = np.full(most.shape, float(limit)), np.full(most.shape, np.inf)
    for divisor in [*range(1, limit + 1), *(limit - 0.75 + step / 32 for step in range(65))]:
        steps = unit * np.float32(divisor)
        error = (np.rint(steps).clip(-limit, limit) - steps) / np.float32(divisor)
        squares = np.einsum("ngk,ngk->ng", error, error)
        better = squares < least
        least, best = np.where(better, squares, least), np.where(better, divisor, best)
    return most / best
