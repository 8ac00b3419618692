"""HLQ of ELUTQ (arXiv 2510.19482): bit-planes with scales of their own by an alternating fit."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.join import fit_grouped


@fitter("bitplane", rank=20)
def hlq(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Nearest levels and least squares in turn; with calibration, errors of a group are compensated by the next."""
    return fit_grouped(array, hessian, encoding)
