"""PTQTP (arXiv 2509.16989): trit-planes by ridge regression and exhaustive choice in turn."""

from __future__ import annotations

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import Fields, fitter
from nomul.passes.fit.solve.join import fit_grouped


def _refuses(encoding: Encoding) -> str | None:
    return "pack=3of4 is sherry's" if isinstance(encoding, Ternary) and encoding.pack_ == "3of4" else None


@fitter("ternary", refuses=_refuses, rank=20)
def ptqtp(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Progressive trit-plane solve for each group; tied planes by a search of their one scale."""
    return fit_grouped(array, hessian, encoding)
