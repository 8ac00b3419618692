"""Partial binarisation: PB-LLM (arXiv 2310.00034) and PTQ1.61 (arXiv 2502.13179). Salient columns are stored better."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.split import Split
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.compensate import Compensation, fit_groups
from nomul.passes.fit.solve.hessian import importance_of, inverse_factor
from nomul.passes.fit.solve.join import matrix_of
from nomul.passes.fit.solve.lattice import Parts
from nomul.passes.fit.solve.solvers import best_lattice

VALUE, REST = "value_", "rest_"  # prefixes of parts, as `Split` has them
ROUNDS = 15  # of column scales and the rest (D2Quant's dual scale, arXiv 2602.02546)


def _refuses(encoding: Encoding) -> str | None:
    sides = encoding.sides.values() if isinstance(encoding, Split) else ()
    return "it cannot fit pack=3of4" if any(isinstance(s, Ternary) and s.pack_ == "3of4" for s in sides) else None


@fitter("split", refuses=_refuses, rank=20)
def partial_binary(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """PB-LLM: columns are salient whose rounding would cost most, w^2 / U_jj^2 (without calibration w^2)."""
    matrix = matrix_of(array, hessian)
    cost = 1.0 if hessian is None else importance_of(inverse_factor(hessian))
    return _fit(array, matrix, hessian, encoding, np.sum(matrix**2, axis=0) * cost)


@fitter("split", refuses=_refuses, rank=10)
def activation_mask(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """PTQ1.61: columns are salient whose inputs are largest (without calibration, whose weights are)."""
    matrix = matrix_of(array, hessian)
    size = np.sum(matrix**2, axis=0) if hessian is None else np.diag(hessian)
    return _fit(array, matrix, hessian, encoding, size)


def _fit(
    array: np.ndarray, matrix: np.ndarray, hessian: np.ndarray | None, encoding: Encoding, score: np.ndarray
) -> Fields:
    """The rest comes first, so that the salient columns, which are precise, can make up for its errors."""
    assert isinstance(encoding, Split)
    encoding.field_types(array.shape)
    salient = np.sort(np.argsort(-score, kind="stable")[: encoding.salient_count(matrix.shape[1])])
    rest = np.setdiff1d(np.arange(matrix.shape[1]), salient)
    parts: Parts = {"salient": salient.astype(np.int32)}
    factors = np.ones(matrix.shape[1])
    if encoding.columns:
        parts["column_scale"] = _column_scale(matrix[:, rest], encoding.sides[REST])
        factors[: len(rest)] = np.where(parts["column_scale"] > 0, parts["column_scale"], 1.0)
    order = np.concatenate([rest, salient])
    scaled = matrix[:, order] / factors
    moved = None if hessian is None else hessian[np.ix_(order, order)] * np.outer(factors, factors)
    for prefix, fitted in _fit_sides(scaled, moved, encoding, len(rest)).items():
        parts |= {prefix + name: part for name, part in fitted.items()}
    return encoding.assemble(parts, array.shape)


def _fit_sides(matrix: np.ndarray, hessian: np.ndarray | None, encoding: Split, middle: int) -> dict[str, Parts]:
    """The parts of both sides of a matrix [N, K] whose first columns are the rest."""
    work = None if hessian is None else Compensation(matrix, inverse_factor(hessian))
    parts = {}
    for prefix, start, stop in ((REST, 0, middle), (VALUE, middle, matrix.shape[1])):
        lattice, group = best_lattice(encoding.sides[prefix]), encoding.sides[prefix].group or stop - start
        if work is None:
            fitted = fit_groups(matrix[:, start:stop], lattice, group)
        else:
            fitted = work.fit(lattice, start, stop, group)
        parts[prefix] = fitted.parts | lattice.shared
    return parts


def _column_scale(rest: np.ndarray, encoding: Grouped) -> np.ndarray:
    """[K]: a factor for each column, as stored, and the least squares one in turn with fitting the rest to it."""
    size = np.abs(rest).mean(axis=0)
    scale = size / (size.mean() or 1.0)
    lattice, group = best_lattice(encoding), encoding.group or rest.shape[1]
    best, least = scale, np.inf
    for _ in range(ROUNDS):
        fitted = fit_groups(rest / np.where(scale > 0, scale, 1.0), lattice, group).values
        error = float(np.sum((rest - fitted * scale) ** 2))
        if error < least:
            best, least = scale, error
        norm = np.sum(fitted**2, axis=0)
        scale = np.divide(np.sum(rest * fitted, axis=0), norm, out=scale.copy(), where=norm > 0).clip(min=0)
    return encoding.rounded(best, "column scale")
