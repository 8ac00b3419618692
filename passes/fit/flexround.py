"""FlexRound (arXiv 2306.00317): a divisor for every weight, learned so that the layer's outputs come out best."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.low_bit import Parts
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, find_fitter, fitter
from nomul.passes.fit.solve.divisors import Divisors
from nomul.passes.fit.solve.join import matrix_of

STEPS = 300
PATIENCE = 50  # steps without a smaller error, after which no smaller one comes
PACE = 0.3  # of the rates: what the start has compensated is soon lost by large steps


def _refuses(encoding: Encoding) -> str | None:
    return "it cannot fit pack=3of4" if isinstance(encoding, Ternary) and encoding.pack_ == "3of4" else None


@fitter("int8", "int4", "codebook", "shift", "ternary", "bitplane", refuses=_refuses, rank=1, by_block=True)
def flexround(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Weights are divided by learned numbers before they are rounded, so that large ones may move several steps.

    It starts from what the default fitter makes, and keeps the best that it meets (Adam, straight-through gradients of
    the layer's squared error). Without calibration it is that default fitter. scope = "block" in a recipe: layers of a
    block learn together, from the error of its outputs."""
    assert isinstance(encoding, Grouped)
    matrix = matrix_of(array, hessian)
    fields = find_fitter(None, encoding)(array, hessian, encoding)
    size = 0.0 if hessian is None else float(np.vdot(matrix @ hessian, matrix))
    if hessian is None or size <= 0:
        return fields
    parts = encoding.parts(fields, array.shape)
    return encoding.assemble(_learned(encoding, matrix, hessian / size, parts), array.shape)


def _learned(encoding: Grouped, matrix: np.ndarray, hessian: np.ndarray, parts: Parts) -> Parts:
    """The parts of least error. hessian: scaled so that the error is relative."""
    hessian = hessian.astype(np.float32)  # products with it are most of the work
    divisors = Divisors(encoding, matrix, parts)
    best, least, patience = parts, np.inf, PATIENCE
    for step in range(STEPS + 1):
        lost = divisors.values - matrix
        slope = lost.astype(np.float32) @ hessian
        error = float(np.vdot(slope, lost))
        if error < least:
            best, least, patience = divisors.found, error, PATIENCE
        elif patience == 0:
            break
        patience -= 1
        divisors.step(2 * slope, PACE * (1 - step / STEPS))
    return best
