"""Weights of low rank, truncated where the layer's outputs are smallest (Dobi-SVD, ICLR 2025)."""

from __future__ import annotations

import numpy as np

from nomul.passes.calibrate import Statistics
from nomul.passes.transforms.base import Request
from nomul.passes.transforms.factorisation import Factorisation

STEP = 8  # a rank that is not given is a multiple of this
DAMPING = 1e-6  # of the mean square of an input


class LowRank(Factorisation):
    """Two layers of low rank in the place of one.

    The singular directions that matter most stay: of the outputs on calibration data, else of the weights.

    rank: how many; 0: as many as give `share` of the weights' number."""

    name = "low_rank"
    options = {"rank": 0, "share": 0.5}

    def rank(self, request: Request) -> int:
        rows, columns = request.matrix.shape
        most = request.options["share"] * rows * columns / (rows + columns)
        return int(request.options["rank"] or max(min(most, 1), most // STEP * STEP))

    def factors(self, request: Request, rank: int, seen: Statistics | None) -> tuple[np.ndarray, np.ndarray]:
        matrix = request.matrix
        root = np.eye(matrix.shape[1]) if seen is None else _root(seen.hessian)
        left, sizes, right = np.linalg.svd(matrix @ root, full_matrices=False)
        halves = np.sqrt(sizes[:rank])
        basis = np.linalg.solve(root.T, (halves[:, None] * right[:rank]).T).T
        return left[:, :rank] * halves, basis


def _root(hessian: np.ndarray) -> np.ndarray:
    """L with L L^T = H."""
    damping = DAMPING * max(float(np.diag(hessian).mean()), 1e-12)
    return np.linalg.cholesky(hessian + damping * np.eye(len(hessian)))
