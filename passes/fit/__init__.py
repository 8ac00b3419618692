"""Fitters: how to choose the bytes of an encoding for given weights. One file each, found by themselves.

A fitter is a function `(array, hessian, encoding) -> fields`. array: f32 weights of any shape, the output axis first.
hessian: [K, K], the mean of x x^T over calibration inputs of the layer, or None. fields: what `encoding.unpack` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.registry import Registry

Fitter = Callable[[np.ndarray, np.ndarray | None, Encoding], Mapping[str, np.ndarray]]
DEFAULT = "round_to_nearest"

_FITTERS: Registry[str, Fitter] = Registry(__name__, "fitter {}")


def fitter(function: Fitter) -> Fitter:
    """Declare a fitter under its function's name. Raises ValueError for a name declared twice."""
    return _FITTERS.add(function.__name__, function)


def all_fitters() -> dict[str, Fitter]:
    """Every fitter by name."""
    return dict(sorted(_FITTERS.all().items()))
