"""Round to nearest with the scale of least squared error instead of the one that clips nothing."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.join import fit_grouped


@fitter("int8", "int4", "codebook", "shift", rank=10)
def clip(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Each group's scale clips as much as makes its squared error least; with calibration errors are compensated."""
    return fit_grouped(array, hessian, encoding)
