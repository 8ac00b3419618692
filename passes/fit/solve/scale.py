"""Searches for the scale of least error: for tables of values times one scale, and for integers with a zero point."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from nomul.passes.fit.solve.lattice import Parts


@dataclass(frozen=True)
class Grid:
    """Values that a scale multiplies, from low to high (low <= 0 < high).  nearest: the value next to each number."""

    low: float
    high: float
    nearest: Callable[[np.ndarray], np.ndarray]

    @staticmethod
    def integers(least: int, most: int) -> Grid:
        return Grid(least, most, lambda steps: np.clip(np.rint(steps), least, most))

    @staticmethod
    def table(values: np.ndarray) -> Grid:
        """Any finite set of values."""
        table = np.unique(values.astype(np.float64))
        return Grid(table[0], table[-1], lambda steps: table[nearest_in_table(steps, table)])


def nearest_in_table(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Index of the nearest entry of an ascending table; a value in the middle goes down."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values, side="left")


def absmax_scale(groups: np.ndarray, grid: Grid) -> np.ndarray:
    """[R]: the smallest scale with which no weight is clipped."""
    high = np.maximum(groups.max(axis=1), 0.0) / grid.high
    low = np.minimum(groups.min(axis=1), 0.0) / grid.low if grid.low < 0 else np.zeros(len(groups))
    return np.maximum(high, low)


def search_scale(groups: np.ndarray, importance: np.ndarray, grid: Grid, factors: Iterable[float]) -> Parts:
    """The scale of least weighted squared error among `factors` of the absmax scale, each with the exact least squares
    scale for its codes. groups: [R, k] f64; the first of equally good scales wins."""
    largest = absmax_scale(groups, grid)
    best, kept = np.full(len(groups), np.inf), np.zeros_like(largest)
    for factor in factors:
        scale = largest * factor
        error, refined = _error_and_refined(groups, importance, grid, scale)
        better = error < best
        best[better], kept[better] = error[better], refined[better]
    return {"scale": kept}


def _error_and_refined(
    groups: np.ndarray, importance: np.ndarray, grid: Grid, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least error with the codes that a scale gives, and the scale that reaches it."""
    chosen = grid.nearest(divide(groups, scale))
    weighted = importance * chosen
    norm, inner = np.sum(weighted * chosen, axis=1), np.sum(weighted * groups, axis=1)
    refined = np.divide(inner, norm, out=scale.copy(), where=(norm > 0) & (inner > 0))
    return np.sum(importance * (groups - chosen * refined[:, None]) ** 2, axis=1), refined


def search_range(
    groups: np.ndarray, importance: np.ndarray, limits: tuple[int, int], factors: Iterable[float]
) -> Parts:
    """Scale and zero point of least weighted squared error among `factors` of the range from min to max (0 inside).

    limits: least and largest code; a weight is scale * (code - zero)."""
    least, most = limits
    low, high = np.minimum(groups.min(axis=1), 0.0), np.maximum(groups.max(axis=1), 0.0)
    best = np.full(len(groups), np.inf)
    kept: Parts = {"scale": np.zeros(len(groups)), "zero": np.zeros(len(groups), np.int8)}
    for factor in factors:
        scale = (high - low) * (factor / (most - least))
        zero = np.clip(np.rint(least - divide(low[:, None] * factor, scale)[:, 0]), least, most)
        zero[scale == 0] = 0
        codes = np.clip(np.rint(divide(groups, scale)) + zero[:, None], least, most)
        error = np.sum(importance * (groups - (codes - zero[:, None]) * scale[:, None]) ** 2, axis=1)
        better = error < best
        best[better], kept["scale"][better], kept["zero"][better] = error[better], scale[better], zero[better]
    return kept


def divide(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """values [R, k] / scale [R]; zeros where the scale is zero."""
    return np.divide(values, scale[:, None], out=np.zeros(values.shape), where=scale[:, None] != 0)
