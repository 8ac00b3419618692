"""The error of fitted weights that tests of fitters compare."""

from __future__ import annotations

import numpy as np


def weighted_error(weights: np.ndarray, fitted: np.ndarray, hessian: np.ndarray | None = None) -> float:
    """Relative root of trace(E H E^T), E = weights - fitted [N, K]: the relative error of the layer's outputs.

    Without a Hessian the relative Frobenius error."""
    dense = weights.astype(np.float64)
    return float(np.sqrt(_energy(dense - fitted, hessian) / _energy(dense, hessian)))


def _energy(matrix: np.ndarray, hessian: np.ndarray | None) -> float:
    return float(np.sum(matrix * (matrix if hessian is None else matrix @ hessian)))
