"""What fitters need of a Hessian: damping and the triangular factor of its inverse."""

from __future__ import annotations

import numpy as np

DAMPING = 0.01  # of the mean diagonal, as GPTQ and SparseGPT have it


def damped(hessian: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """f64 H + damping * mean(diag H). Inputs that are always zero get the mean diagonal first."""
    matrix = np.array(hessian, np.float64)
    diagonal = np.einsum("ii->i", matrix)  # a view that can be written
    dead = diagonal <= 0
    diagonal[dead] = 1.0 if dead.all() else diagonal[~dead].mean()
    diagonal += damping * diagonal.mean()
    return matrix


def inverse_factor(hessian: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """Upper triangular U [K, K] with U.T @ U = inverse(`damped`(H)). hessian: [K, K], mean of x x^T."""
    inverse = np.linalg.inv(damped(hessian, damping))
    return np.ascontiguousarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)


def importance_of(factor: np.ndarray) -> np.ndarray:
    """[K]: how much a squared error of each column costs once later columns have made up for it, 1 / diag(U)^2."""
    return 1.0 / np.diag(factor) ** 2
