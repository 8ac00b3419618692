"""The simplest fitter: each weight by itself."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.passes.fit import Fields, fitter


@fitter()
def round_to_nearest(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Every weight becomes the nearest one that the encoding can represent; the hessian is not used."""
    return encoding.pack(array)
