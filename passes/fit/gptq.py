"""GPTQ (arXiv 2210.17323): error compensation for any encoding, with the scales that the encoding takes by itself."""

from __future__ import annotations

from math import prod

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.low_bit import LowBit
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.compensate import fit_blocks
from nomul.passes.fit.solve.join import fit_grouped, matrix_of
from nomul.passes.fit.solve.lattice import Parts, Solver, regrouped


def _refuses(encoding: Encoding) -> str | None:
    if not isinstance(encoding, LowBit):
        return "it has no codes to choose"
    return None if _by_columns(encoding) or encoding.block else "whole rows are stored at once"


def _by_columns(encoding: Encoding) -> bool:
    """Whether one column can be rounded for itself once scales are known."""
    return isinstance(encoding, Grouped) and not (isinstance(encoding, Ternary) and encoding.pack_ == "3of4")


@fitter(refuses=_refuses, rank=5)
def gptq(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Columns (or blocks of them) in order, the errors of each made up for by the later ones.

    Without calibration round to nearest."""
    assert isinstance(encoding, LowBit)
    matrix = matrix_of(array, hessian)
    if hessian is None:
        return encoding.pack(array)
    if isinstance(encoding, Grouped) and _by_columns(encoding):
        scales = encoding.default_scales(matrix)
        shared = {name: part for name, part in scales.items() if part.ndim == 1}
        return fit_grouped(array, hessian, encoding, (_default_solver(encoding), shared))
    encoding.field_types(array.shape)

    def pack(block: np.ndarray) -> tuple[Parts, np.ndarray]:
        parts = encoding.choose(block)
        return dict(parts), encoding.values(parts).astype(np.float64)

    block = encoding.block if prod(array.shape[1:]) > encoding.block else prod(array.shape[1:])
    return encoding.assemble(fit_blocks(matrix, hessian, block, pack), array.shape)


def _default_solver(encoding: Grouped) -> Solver:
    by_row = regrouped(encoding, 0)

    def solve(groups: np.ndarray, importance: np.ndarray) -> Parts:
        return {name: part[..., 0] for name, part in by_row.default_scales(groups).items() if part.ndim > 1}

    return solve
