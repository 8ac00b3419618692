"""Weights as sparse sums of the rows of a small dense basis (DSFormer, arXiv 2312.13211)."""

from __future__ import annotations

import numpy as np

from nomul.passes.calibrate import Statistics
from nomul.passes.fit.solve.compensate import fit_matrix
from nomul.passes.fit.solve.sparse import KEPT, FloatLattice, SparseLattice
from nomul.passes.transforms.base import Request
from nomul.passes.transforms.factorisation import Factorisation

ROUNDS = 8
ROWS = 256  # whose least squares problems are solved at once
RIDGE = 1e-6  # of the mean of the diagonal


class Dictionary(Factorisation):
    """A small dense basis and sparse coefficients in the place of the weights.

    y = S (D x): each row of S has n of each m coefficients, so that `nm<n, m>` stores it without loss; which ones,
    their values and the basis are fitted in turn, with calibration data to the layer's outputs.

    basis: rows of D (a multiple of m); 0: half of the smaller side.  n, m: of each m coefficients n are kept."""

    name = "dictionary"
    options = {"basis": 0, "n": 2, "m": 8}

    def rank(self, request: Request) -> int:
        run = int(request.options["m"])
        return int(request.options["basis"] or min(request.matrix.shape) // 2) // run * run

    def size(self, request: Request, rank: int) -> float:
        rows, columns = request.matrix.shape
        return rank * (columns + rows * request.options["n"] / request.options["m"])

    def refusal(self, request: Request) -> str | None:
        keep, run = request.options["n"], request.options["m"]
        if not 1 <= keep < run or keep % 1 or run % 1:
            return f"n={keep:g} of m={run:g} is no pattern"
        if self.rank(request) > request.matrix.shape[0]:
            return f"a basis of {self.rank(request)} rows for {request.matrix.shape[0]} outputs is no smaller"
        return super().refusal(request)

    def factors(self, request: Request, rank: int, seen: Statistics | None) -> tuple[np.ndarray, np.ndarray]:
        matrix, keep, run = request.matrix, int(request.options["n"]), int(request.options["m"])
        hessian = np.eye(matrix.shape[1]) if seen is None else seen.hessian
        lattice = SparseLattice(FloatLattice(np.dtype(np.float32)), keep, run)
        basis = _leading_rows(matrix, rank)
        least, best = np.inf, (np.zeros((len(matrix), rank)), basis)
        for _ in range(ROUNDS):
            gram, right = basis @ hessian @ basis.T, matrix @ hessian @ basis.T
            dense = np.linalg.solve(_damped(gram), right.T).T
            coefficients = _refitted(fit_matrix(dense, _damped(gram), lattice, 0).parts[KEPT], gram, right)
            lost = coefficients @ basis - matrix
            error = float(np.vdot(lost @ hessian, lost))
            if error < least:
                least, best = error, (coefficients, basis)
            basis = np.linalg.solve(_damped(coefficients.T @ coefficients), coefficients.T @ matrix)
        return best


def _damped(gram: np.ndarray) -> np.ndarray:
    return gram + RIDGE * max(float(np.diag(gram).mean()), 1e-12) * np.eye(len(gram))


def _leading_rows(matrix: np.ndarray, count: int) -> np.ndarray:
    """Rows that span most of the others: each time the one with the largest part outside of those before."""
    left = matrix.copy()
    chosen: list[int] = []
    for _ in range(count):
        sizes = np.square(left).sum(axis=1)
        sizes[chosen] = -1
        chosen.append(int(sizes.argmax()))
        direction = left[chosen[-1]] / max(np.sqrt(max(sizes[chosen[-1]], 0)), 1e-12)
        left -= np.outer(left @ direction, direction)
    return matrix[chosen]


def _refitted(kept: np.ndarray, gram: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Least squares of the kept coefficients [N, R], equally many in each row."""
    places = np.nonzero(kept)[1].reshape(len(kept), -1)
    damped, found = _damped(gram), np.zeros(kept.shape)
    for start in range(0, len(kept), ROWS):
        some = places[start : start + ROWS]
        systems = damped[some[:, :, None], some[:, None, :]]
        values = np.linalg.solve(systems, np.take_along_axis(right[start : start + ROWS], some, axis=1)[..., None])
        np.put_along_axis(found[start : start + ROWS], some, values[..., 0], axis=1)
    return found
