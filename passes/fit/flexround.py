"""FlexRound (arXiv 2306.00317): a divisor for every weight, learned so that the layer's outputs come out best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.low_bit import Parts
from nomul.passes.fit import Fields, find_fitter, fitter
from nomul.passes.fit.solve.join import matrix_of

STEPS = 300
RATE = 0.1  # of logarithms of divisors, times the relative error of weights at first; it falls to zero
SCALE_RATE = 0.01  # of logarithms of scales, likewise


@fitter("int8", "int4", "codebook", "shift", rank=1)
def flexround(array: np.ndarray, hessian: np.ndarray | None, encoding: Encoding) -> Fields:
    """Weights are divided by learned numbers before they are rounded, so that large ones may move several steps.

    It starts from the default fitter's scales without calibration, and keeps the best that it meets (Adam,
    straight-through gradients of the layer's squared error). Without calibration it is that default fitter."""
    assert isinstance(encoding, Grouped)
    matrix = matrix_of(array, hessian)
    fields = find_fitter(None, encoding)(array, None, encoding)
    size = 0.0 if hessian is None else float(np.vdot(matrix @ hessian, matrix))
    if hessian is None or size <= 0:
        return fields
    parts = encoding.parts(fields, array.shape)
    return encoding.assemble(_learned(encoding, matrix, hessian / size, parts), array.shape)


def _learned(encoding: Grouped, matrix: np.ndarray, hessian: np.ndarray, parts: Parts) -> Parts:
    """The parts of least error. hessian: scaled so that the error is relative."""
    lost = float(np.linalg.norm(encoding.values(parts) - matrix) / np.linalg.norm(matrix))
    element, row, scale = _Adam(RATE * lost), _Adam(RATE * lost), _Adam(SCALE_RATE * lost)
    scales = {name: part for name, part in parts.items() if _is_scale(part, matrix)}
    best, least = parts, np.inf
    for step in range(STEPS + 1):
        wanted = matrix * np.exp(-(element.value + row.value))
        current = scales | {"scale": encoding.rounded(scales["scale"] * np.exp(scale.value))}
        found = encoding.nearest_by_rows(wanted, current)
        values = encoding.values(found).astype(np.float64)
        slope = (values - matrix) @ hessian
        error = float(np.vdot(slope, values - matrix))
        if error < least:
            best, least = found, error
        left = 1 - step / STEPS
        pull = -2 * slope * wanted
        element.step(pull, left)
        row.step(pull.sum(axis=1, keepdims=True), left)
        scale.step(encoding.grouped(2 * slope * (values - wanted)).sum(axis=-1), left)
    return best


def _is_scale(part: np.ndarray, matrix: np.ndarray) -> bool:
    """Not a code for each weight."""
    return part.ndim == 1 or part.shape[-1] != matrix.shape[1] or matrix.shape[1] == 1


@dataclass
class _Adam:
    """Kingma and Ba, 2015, with its usual moments, on an array that starts at zero."""

    rate: float
    value: np.ndarray | float = 0.0
    mean: np.ndarray | float = 0.0
    square: np.ndarray | float = 0.0
    steps: int = 0

    def step(self, gradient: np.ndarray, share: float) -> None:
        """share: of the rate."""
        self.steps += 1
        self.mean = 0.9 * self.mean + 0.1 * gradient
        self.square = 0.999 * self.square + 0.001 * gradient**2
        mean, square = self.mean / (1 - 0.9**self.steps), self.square / (1 - 0.999**self.steps)
        self.value = self.value - share * self.rate * mean / (np.sqrt(square) + 1e-12)
