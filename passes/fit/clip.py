"""Round to nearest with the scale of least squared error instead of the one that clips nothing."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.join import fit_grouped
from nomul.passes.fit.solve.lattice import Parts, Solver
from nomul.passes.fit.solve.solvers import best_solver


@fitter("int8", "int4", "codebook", "shift", rank=10)
def clip(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Each group's scale clips as much as makes its squared error least; with calibration errors are compensated.

    Without calibration the errors of large weights count for more."""
    solver, shared = best_solver(encoding)
    return fit_grouped(array, hessian, encoding, (solver if hessian is not None else _wary(solver), shared))


def _wary(solver: Solver) -> Solver:
    """Weights squared errors by sqrt(w^2 + mean w^2), as llama.cpp does for its groups.

    The least plain error clips the largest weights of queries and keys, which often belong to the largest inputs."""

    def solve(groups: np.ndarray, importance: np.ndarray) -> Parts:
        squares = groups**2
        return solver(groups, importance * np.sqrt(squares + squares.mean(axis=1, keepdims=True)))

    return solve
