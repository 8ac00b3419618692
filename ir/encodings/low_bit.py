"""What the encodings of a few bits have in common: weights as a matrix, and its parts, the arrays behind the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from nomul.ir.encodings.base import Encoding

Parts = Mapping[str, np.ndarray]


class LowBit(Encoding):
    """Weights [N, K]: all axes but the first are flattened into K, the depth of the sum.

    Parts are what a fitter chooses: arrays whose last axis is K, the number of groups, or K times a fraction; so parts
    of neighbouring column blocks can be concatenated on the last axis. `assemble` rounds scales to their stored
    precision; `parts(assemble(p))` are the parts with rounded scales."""

    def pack(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest representable weights for the scales of a simple rule, given for each encoding.

        Raises ValueError for a weight that is not finite and a shape that does not fit."""
        return self.assemble(self.choose(finite_matrix(array)), array.shape)

    def unpack(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return self.values(self.parts(packed, shape)).reshape(shape)

    def choose(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """The parts that `pack` stores. matrix: finite f64 [N, k] with k a multiple of `block`."""
        raise NotImplementedError

    def values(self, parts: Parts) -> np.ndarray:
        """The f32 matrix [N, k] that the parts mean."""
        raise NotImplementedError

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """The plain arrays behind packed fields."""
        raise NotImplementedError

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Packed fields of parts. Raises ValueError for codes or scales that cannot be stored."""
        raise NotImplementedError

    @property
    def block(self) -> int:
        """Columns that can be packed by themselves: any multiple of this. 0: only whole rows."""
        raise NotImplementedError


def matrix_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """(N, K) of weights. Raises ValueError for fewer than two axes and for none at all."""
    if len(shape) < 2 or not prod(shape):
        raise ValueError(f"weights of shape {list(shape)} are no matrix of rows and columns")
    return shape[0], prod(shape[1:])


def finite_matrix(array: np.ndarray) -> np.ndarray:
    """The weights as f64 [N, K]. Raises ValueError where one is not finite."""
    matrix = array.reshape(matrix_size(array.shape)).astype(np.float64)
    wrong = ~np.isfinite(matrix)
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=1))[0])
        raise ValueError(f"{np.count_nonzero(wrong)} weights are not finite, the first in row {row}")
    return matrix


def one_of(value: object, *allowed: object) -> str | None:
    """What is wrong with a parameter's value, or None."""
    return None if value in allowed else f"must be one of {', '.join(map(str, allowed))}, not {value}"


def check_codes(codes: np.ndarray, low: int, high: int, what: str = "codes") -> None:
    """Raises ValueError where integers are outside [low, high]."""
    if codes.size and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ValueError(f"{what} from {codes.min()} to {codes.max()} are outside {low} to {high}")
