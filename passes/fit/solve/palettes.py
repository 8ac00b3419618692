"""Palettes of a few values in -1..1, found on a histogram of the weights: k-means, power-exponent, twin-log."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings.palettes import power, twin_log
from nomul.passes.fit.solve.scale import divide, nearest_in_table

BINS = 8192
LLOYD_ROUNDS = 60


def histogram(groups: np.ndarray, scale: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    """[BINS]: mass of the weights / scale in bins over -1..1; each weight counts importance * scale^2, so that errors
    on the histogram are errors of the weights. groups: [R, k], scale: [R], importance: [R, k]."""
    mass = scale[:, None] ** 2 * (np.ones(groups.shape) if importance is None else importance)
    steps = (np.clip(divide(groups, scale), -1, 1) + 1) * (BINS / 2)
    return np.bincount(np.minimum(steps.astype(np.int64), BINS - 1).ravel(), mass.ravel(), BINS)


def centres() -> np.ndarray:
    """[BINS]: the middle of each bin of `histogram`."""
    return (np.arange(BINS) + 0.5) * (2 / BINS) - 1


def palette_error(table: np.ndarray, mass: np.ndarray) -> float:
    """Weighted squared error of the nearest entries of an ascending table."""
    points = centres()
    return float(np.sum(mass * (points - table[nearest_in_table(points, table)]) ** 2))


def k_means(mass: np.ndarray, entries: int) -> np.ndarray:
    """Lloyd's algorithm from equally heavy shares: [entries], ascending."""
    points, total = centres(), np.concatenate([[0.0], np.cumsum(mass)])
    moment = np.concatenate([[0.0], np.cumsum(mass * points)])
    share = np.searchsorted(total[1:] / max(total[-1], 1e-300), (np.arange(entries) + 0.5) / entries)
    table = np.unique(points[np.minimum(share, BINS - 1)])
    table = np.concatenate([table, np.linspace(1, 2, entries - len(table), endpoint=False) + 1 / BINS])
    for _ in range(LLOYD_ROUNDS):
        edges = np.searchsorted(points, (table[1:] + table[:-1]) / 2, side="right")
        edges = np.concatenate([[0], edges, [BINS]])
        weight = np.diff(total[edges])
        moved = np.divide(np.diff(moment[edges]), weight, out=table.copy(), where=weight > 0)
        if np.array_equal(moved, table):
            break
        table = np.sort(moved)
    return table


def search_power(mass: np.ndarray, entries: int) -> float:
    """PowerQuant's exponent of least error: a grid over 0.05..1.5, then finer around its best (A11)."""
    coarse = _best_power(np.linspace(0.05, 1.5, 59), mass, entries)
    return _best_power(coarse + np.linspace(-0.025, 0.025, 21), mass, entries)


def _best_power(exponents: np.ndarray, mass: np.ndarray, entries: int) -> float:
    usable = [float(exponent) for exponent in exponents if exponent > 0]
    return min(usable, key=lambda exponent: palette_error(np.unique(power(entries, exponent)), mass))


def search_twin_log(mass: np.ndarray, entries: int) -> np.ndarray:
    """LRQ-DiT's levels of least error [entries]: for each sign its own step, and an end that is clipped by up to three
    steps (A12)."""
    positive, negative = (_best_side(half, entries) for half in _halves(mass))
    return twin_log(entries, (positive[0], negative[0]), (positive[1], negative[1]))


def _halves(mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The histogram of the positive weights, and that of the negated negative ones."""
    upper = np.arange(BINS) >= BINS // 2
    return np.where(upper, mass, 0.0), np.where(upper, mass[::-1], 0.0)


def _best_side(mass: np.ndarray, entries: int) -> tuple[float, float]:
    """(step, end) of the levels end * 2^(-step * i), i = 0..entries/2 - 1."""
    places = np.arange(entries // 2)[::-1]
    pairs = [(float(step), float(2.0 ** (-step * clip))) for step in np.linspace(0.1, 1.5, 71) for clip in range(4)]
    return min(pairs, key=lambda pair: palette_error(pair[1] * 2.0 ** (-pair[0] * places), mass))
