"""Coordinate descent (QuantEase, arXiv 2309.01885): every weight in turn becomes the best one given all others."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.low_bit import Parts
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, find_fitter, fitter
from nomul.passes.fit.solve.hessian import damped
from nomul.passes.fit.solve.join import matrix_of
from nomul.passes.fit.solve.lattice import regrouped

SWEEPS = 4
STRIP = 128  # columns between updates of the slope of all others


def _refuses(encoding: Encoding) -> str | None:
    return "it cannot fit pack=3of4" if isinstance(encoding, Ternary) and encoding.pack_ == "3of4" else None


@fitter("int8", "int4", "codebook", "shift", "ternary", "bitplane", refuses=_refuses, rank=4)
def coordinate_descent(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """From what the default fitter makes: column by column the codes that are best while all others stay, four times.

    Scales stay. Without calibration the default fitter's result, which is best column by column already."""
    assert isinstance(encoding, Grouped)
    matrix = matrix_of(array, hessian)
    fields = find_fitter(None, encoding)(array, hessian, encoding)
    if hessian is None:
        return fields
    parts = {name: part.copy() for name, part in encoding.parts(fields, array.shape).items()}
    _descend(encoding, matrix, damped(hessian), parts)
    return encoding.assemble(parts, array.shape)


def _descend(encoding: Grouped, matrix: np.ndarray, hessian: np.ndarray, parts: Parts) -> None:
    """Changes the codes in `parts`."""
    columns = matrix.shape[1]
    values = encoding.values(parts).astype(np.float64)
    slope = (values - matrix) @ hessian
    column = regrouped(encoding, 0)
    size = encoding.group or columns
    curvature = np.diag(hessian)
    for first in [*range(0, columns, STRIP)] * SWEEPS:
        strip = slice(first, min(first + STRIP, columns))
        near, before = slope[:, strip], values[:, strip].copy()
        own = hessian[strip, strip]
        for at in range(strip.stop - first):
            index = first + at
            wanted = values[:, index] - near[:, at] / curvature[index]
            scales = {name: part for name, part in parts.items() if part.ndim == 1} | {
                name: part[..., [index // size]] for name, part in parts.items() if _by_group(part, columns // size)
            }
            found = column.nearest(wanted[:, None], scales)
            for name in found.keys() - scales.keys():
                parts[name][..., index] = found[name][..., 0]
            new = column.values(found)[:, 0].astype(np.float64)
            near += np.outer(new - values[:, index], own[at])
            values[:, index] = new
        change = values[:, strip] - before
        near -= change @ own  # which the next line adds
        slope += change @ hessian[strip]


def _by_group(part: np.ndarray, groups: int) -> bool:
    return part.ndim > 1 and part.shape[-1] == groups
