"""How far an encoded array is from the array it stands for: signal to noise, cosine, the channel with most error."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import log10
from typing import Any

import numpy as np

EXACT = 200.0  # decibels that stand for equal arrays


@dataclass(frozen=True)
class Accuracy:
    """sqnr_db: 10 log10 of the ratio of squares, signal to error, at most 200.  cosine: of the two as vectors.

    worst_channel: with the largest relative error of all rows, which is worst_error (root of the ratio of squares)."""

    sqnr_db: float
    cosine: float
    worst_channel: int
    worst_error: float

    def as_json(self) -> dict[str, Any]:
        """With few digits: what people read and artifacts hold."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def accuracy(before: np.ndarray, after: np.ndarray) -> Accuracy:
    """Of two arrays whose first axis is the channel. Values that are not finite count as no signal and no match."""
    rows = np.reshape(before, (len(before), -1)).astype(np.float64)
    given = np.reshape(after, (len(after), -1)).astype(np.float64)
    finite = np.isfinite(rows) & np.isfinite(given)
    rows, given = np.where(finite, rows, 0), np.where(finite, given, 0)
    signal, noise = np.square(rows).sum(axis=1), np.square(rows - given).sum(axis=1)
    errors = np.sqrt(noise / np.where(signal > 0, signal, max(signal.mean(), 1e-300)))
    sizes = np.sqrt(signal.sum() * np.square(given).sum())
    worst = int(errors.argmax()) if len(errors) else 0
    cosine = float((rows * given).sum() / sizes) if sizes > 0 else float(noise.sum() == 0)
    return Accuracy(decibels(signal.sum(), noise.sum()), cosine, worst, float(errors[worst]) if len(errors) else 0.0)


def decibels(signal: float, noise: float) -> float:
    """Of sums of squares, within [-200, 200]."""
    if noise <= 0:
        return EXACT
    return float(np.clip(10 * log10(signal / noise), -EXACT, EXACT)) if signal > 0 else -EXACT
