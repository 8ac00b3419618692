"""What fitters need of a Hessian: damping, the triangular factor of its inverse, and the error that it measures."""

from __future__ import annotations

import numpy as np

DAMPING = 0.01  # of the mean diagonal, as GPTQ and SparseGPT have it


def inverse_factor(hessian: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Upper triangular U [K, K] with U.T @ U = inverse(H + damping * mean(diag H)). hessian: [K, K], mean of x x^T.

    Inputs that are always zero get the mean diagonal first."""
    matrix = np.array(hessian, np.float64)
    diagonal = np.einsum("ii->i", matrix)  # a view that can be written
    dead = diagonal <= 0
    diagonal[dead] = 1.0 if dead.all() else diagonal[~dead].mean()
    diagonal += damping * diagonal.mean()
    inverse = np.linalg.inv(matrix)
    return np.ascontiguousarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)


def importance_of(factor: np.ndarray) -> np.ndarray:
    """[K]: how much a squared error of each column costs once later columns have made up for it, 1 / diag(U)^2."""
    return 1.0 / np.diag(factor) ** 2


def weighted_error(weights: np.ndarray, fitted: np.ndarray, hessian: np.ndarray | None = None) -> float:
    """Relative root of trace(E H E^T), E = weights - fitted [N, K]: the relative error of the layer's outputs.

    Without a Hessian the relative Frobenius error. All-zero weights: 0 when met exactly, else infinity."""
    dense = weights.astype(np.float64)
    error = dense - fitted
    top, bottom = _energy(error, hessian), _energy(dense, hessian)
    return float(np.sqrt(top / bottom)) if bottom > 0 else (0.0 if top == 0 else np.inf)


def _energy(matrix: np.ndarray, hessian: np.ndarray | None) -> float:
    return float(np.sum(matrix * (matrix if hessian is None else matrix @ hessian)))
