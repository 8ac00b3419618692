"""From weights of any shape to a matrix that is fitted, and back to the packed fields of an encoding."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.low_bit import finite_matrix
from nomul.passes.fit import Fields
from nomul.passes.fit.solve.compensate import fit_matrix
from nomul.passes.fit.solve.lattice import GroupLattice, Parts, Solver
from nomul.passes.fit.solve.solvers import best_solver


def matrix_of(array: np.ndarray, hessian: np.ndarray | None) -> np.ndarray:
    """The weights as f64 [N, K]. Raises ValueError where they or the Hessian are not finite, or it does not fit."""
    matrix = finite_matrix(array)
    if hessian is not None and hessian.shape != (matrix.shape[1],) * 2:
        raise ValueError(f"the Hessian is {list(hessian.shape)}, but the layer has {matrix.shape[1]} inputs")
    if hessian is not None and not np.isfinite(hessian).all():
        raise ValueError("the Hessian is not finite: the calibration data makes NaN or infinity in this layer")
    return matrix


def fit_grouped(
    array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding, solver: tuple[Solver, Parts] | None = None
) -> Fields:
    """Scales by the solver, codes the nearest ones, with error compensation where there is a Hessian.

    solver: with the parts that all groups share; the best one of the encoding where none is given."""
    assert isinstance(encoding, Grouped)
    matrix = matrix_of(array, hessian)
    encoding.sizes(array.shape)
    solve, shared = solver or best_solver(encoding)
    fitted = fit_matrix(matrix, hessian, GroupLattice.of(encoding, solve, shared), encoding.group)
    return encoding.assemble(fitted.parts | shared, array.shape)
