"""Palettes of code books: k-means, PowerQuant's exponent, LRQ-DiT's twin logarithms; each then with the best scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.codebook import Codebook
from nomul.ir.encodings.palettes import as_integers, palette, power
from nomul.passes.fit import Fields, Refusal, fitter
from nomul.passes.fit.solve.hessian import importance_of, inverse_factor
from nomul.passes.fit.solve.join import fit_grouped, matrix_of
from nomul.passes.fit.solve.palettes import histogram, k_means, search_power, search_twin_log
from nomul.passes.fit.solve.solvers import palette_solver

Palette = Callable[[np.ndarray, int], np.ndarray]  # histogram, entries -> palette
ROUNDS = 2  # of palette and scales


def _only(grid: str) -> Refusal:
    def refuses(encoding: Encoding) -> str | None:
        return None if isinstance(encoding, Codebook) and encoding.grid == grid else f"it needs grid={grid}"

    return refuses


@fitter("codebook", refuses=_only("free"), rank=20)
def k_means_palette(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """The palette of least squared error (Lloyd's algorithm), on weights in units of their group's scale."""
    return _fit(array, hessian, encoding, k_means)


@fitter("codebook", refuses=_only("power"), rank=20)
def power_exponent(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """PowerQuant (arXiv 2301.09858): levels (q / Q)^(1 / a), the exponent a searched for the tensor."""
    return _fit(array, hessian, encoding, lambda mass, entries: power(entries, search_power(mass, entries)))


@fitter("codebook", refuses=_only("twinlog"), rank=20)
def twin_log_clip(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """LRQ-DiT (arXiv 2508.03485): logarithmic levels, step and clipping searched for each sign."""
    return _fit(array, hessian, encoding, search_twin_log)


def _fit(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding, find: Palette) -> Fields:
    assert isinstance(encoding, Codebook)
    matrix = matrix_of(array, hessian)
    encoding.sizes(array.shape)
    groups = encoding.grouped(matrix).reshape(-1, encoding.group or matrix.shape[1])
    weights = None
    if hessian is not None:
        weights = np.tile(importance_of(inverse_factor(hessian)).reshape(-1, groups.shape[1]), (len(matrix), 1))
    scale = np.abs(groups).max(axis=1)
    levels = palette(encoding.grid, encoding.entries)
    for _ in range(ROUNDS if scale.any() else 0):
        levels = as_integers(find(histogram(groups, scale, weights), encoding.entries))
        solver, _ = palette_solver(levels)
        scale = solver(groups, np.ones((1, 1)) if weights is None else weights)["scale"] * np.abs(levels).max()
    return fit_grouped(array, hessian, encoding, palette_solver(levels))
