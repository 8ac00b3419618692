"""Fitters: how to choose the bytes of an encoding for given weights. One file each, found by themselves.

A fitter is a function `(array, hessian, encoding) -> fields`. array: f32 weights of any shape, the output axis first.
hessian: [K, K], the mean of x x^T over calibration inputs of the layer, or None. fields: what `encoding.unpack` reads.
It raises ValueError for weights that it cannot fit. The mathematics that they share is in `solve/`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.registry import Registry

Fields = Mapping[str, np.ndarray]
FitFunction = Callable[[np.ndarray, np.ndarray | None, Encoding], Fields]
Refusal = Callable[[Encoding], str | None]


def _takes_all(encoding: Encoding) -> str | None:
    return None


@dataclass(frozen=True)
class Fitter:
    """fits: names of the encodings that it fits, or None for all.  refuses: why one of them is not fitted, or None.

    rank: of the fitters that fit an encoding, the one with the highest rank is used where a recipe names none.
    by_block: it can also fit the layers of a block together (`passes/fit_blocks.py`)."""

    name: str
    function: FitFunction
    fits: tuple[str, ...] | None
    refuses: Refusal
    rank: int
    by_block: bool = False

    def __call__(self, array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
        return self.function(array, hessian, encoding)

    def refusal(self, encoding: Encoding) -> str | None:
        """Why it does not fit this encoding, or None."""
        if self.fits is not None and encoding.name not in self.fits:
            return f"it fits {', '.join(self.fits)}"
        return self.refuses(encoding)


_FITTERS: Registry[str, Fitter] = Registry(__name__, "fitter {}")


def fitter(
    *fits: str, refuses: Refusal = _takes_all, rank: int = 0, by_block: bool = False
) -> Callable[[FitFunction], FitFunction]:
    """Declare a fitter under its function's name for the encodings `fits` (none: all of them).

    Raises ValueError for a name declared twice."""

    def declare(function: FitFunction) -> FitFunction:
        _FITTERS.add(function.__name__, Fitter(function.__name__, function, fits or None, refuses, rank, by_block))
        return function

    return declare


def all_fitters() -> dict[str, Fitter]:
    """Every fitter by name."""
    return dict(sorted(_FITTERS.all().items()))


def fitters_of(encoding: Encoding) -> list[Fitter]:
    """The fitters that fit an encoding, the default one first."""
    fitting = [found for found in all_fitters().values() if found.refusal(encoding) is None]
    return sorted(fitting, key=lambda found: (-found.rank, found.name))


def find_fitter(name: str | None, encoding: Encoding) -> Fitter:
    """The fitter of a name, or the default one of the encoding. Raises ValueError: unknown, or it does not fit."""
    if name is None:
        return fitters_of(encoding)[0]
    usable = ", ".join(found.name for found in fitters_of(encoding))
    if name not in all_fitters():
        near = difflib.get_close_matches(name, all_fitters(), 1)
        guess = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no fitter '{name}' ({guess}for {encoding} there are {usable})")
    reason = all_fitters()[name].refusal(encoding)
    if reason is not None:
        raise ValueError(f"fitter {name} does not fit {encoding}: {reason} (for it there are {usable})")
    return all_fitters()[name]
