"""Sherry (arXiv 2601.07892): ternary weights with exactly one zero in each four."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.compensate import Fitted, fit_matrix
from nomul.passes.fit.solve.fours import descend_fours
from nomul.passes.fit.solve.hessian import damped
from nomul.passes.fit.solve.join import matrix_of
from nomul.passes.fit.solve.lattice import Parts
from nomul.passes.fit.solve.sparse import KEPT, SignLattice, SparseLattice

DAMPING = 1.0  # signs are far from the weights: with less, errors in directions that calibration hardly has grow large


def _refuses(encoding: Encoding) -> str | None:
    if not isinstance(encoding, Ternary):
        return None
    if encoding.pack_ != "3of4":
        return "it needs pack=3of4"
    return f"group={encoding.group} is no multiple of four" if encoding.group % 4 else None


@fitter("ternary", refuses=_refuses, rank=20)
def sherry(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """The least important of each four is zero, the scale the mean magnitude of the others.

    Further planes fit what is left. With calibration choice and scale are weighted and errors are compensated; then
    each four and each scale in turn becomes the best one given all others."""
    assert isinstance(encoding, Ternary)
    matrix = matrix_of(array, hessian)
    encoding.sizes(array.shape)
    parts = _planes(matrix, hessian, encoding)
    if hessian is not None:
        parts = descend_fours(encoding, parts, matrix, damped(hessian, DAMPING))
    return encoding.assemble(parts, array.shape)


def _planes(left: np.ndarray, hessian: np.ndarray | None, encoding: Ternary) -> Parts:
    """One plane after another, each of what the ones before it leave."""
    planes: list[Fitted] = []
    lattice = SparseLattice(SignLattice(encoding), 3, 4)
    for _ in range(encoding.planes):
        planes.append(fit_matrix(left, hessian, lattice, encoding.group, DAMPING))
        left = left - planes[-1].values
    trits = np.concatenate([plane.parts["trits"] * plane.parts[KEPT] for plane in planes])
    return {"trits": trits, "scale": np.concatenate([plane.parts["scale"] for plane in planes])}
