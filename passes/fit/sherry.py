"""Sherry (arXiv 2601.07892): ternary weights with exactly one zero in each four."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.compensate import Fitted, fit_matrix
from nomul.passes.fit.solve.join import matrix_of
from nomul.passes.fit.solve.sparse import KEPT, SignLattice, SparseLattice


def _refuses(encoding: Encoding) -> str | None:
    return "it needs pack=3of4" if isinstance(encoding, Ternary) and encoding.pack_ != "3of4" else None


@fitter("ternary", refuses=_refuses, rank=20)
def sherry(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """The least important of each four is zero, the scale the mean magnitude of the others.

    Further planes fit what is left. With calibration choice and scale are weighted and errors are compensated."""
    assert isinstance(encoding, Ternary)
    matrix = matrix_of(array, hessian)
    encoding.sizes(array.shape)
    planes: list[Fitted] = []
    for _ in range(encoding.planes):
        planes.append(fit_matrix(matrix, hessian, SparseLattice(SignLattice(encoding), 3, 4), encoding.group))
        matrix = matrix - planes[-1].values
    trits = np.concatenate([plane.parts["trits"] * plane.parts[KEPT] for plane in planes])
    scale = np.concatenate([plane.parts["scale"] for plane in planes])
    return encoding.assemble({"trits": trits, "scale": scale}, array.shape)
