"""Fitters: how to choose the bytes of an encoding for given weights. One file each, found by themselves.

A fitter is a function `(array, hessian, encoding) -> fields`. array: f32 weights of any shape, the output axis first.
hessian: [K, K], the mean of x x^T over calibration inputs of the layer, or None. fields: what `encoding.unpack` reads.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from nomul.ir.encodings import Encoding

Fitter = Callable[[np.ndarray, np.ndarray | None, Encoding], Mapping[str, np.ndarray]]
DEFAULT = "round_to_nearest"

_REGISTRY: dict[str, Fitter] = {}


def fitter(function: Fitter) -> Fitter:
    """Declare a fitter under its function's name. Raises ValueError for a name declared twice."""
    name = function.__name__
    if name in _REGISTRY:
        raise ValueError(f"fitter {name} is declared twice")
    _REGISTRY[name] = function
    return function


@cache
def _load() -> None:
    for info in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(info.name)


def all_fitters() -> dict[str, Fitter]:
    """Every fitter by name."""
    _load()
    return dict(sorted(_REGISTRY.items()))
