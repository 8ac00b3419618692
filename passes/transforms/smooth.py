"""Moves part of the range of activations into the weights (SmoothQuant+, arXiv 2312.03788)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nomul.ir.quantise import LEVELS
from nomul.passes.calibrate import Statistics
from nomul.passes.choice import PLAIN
from nomul.passes.transforms.base import Request
from nomul.passes.transforms.column_scaling import ColumnScaling, by_channel, input_statistics, spread

STEP = 0.05
SEARCH = -1.0
_TINY = 1e-12


class Smooth(ColumnScaling):
    """Part of the range of inputs moves into the weights.

    Column j of the weights times s_j = max|x_j|^a / max|w_j|^(1 - a), so that columns whose inputs are large have
    finer steps, and activations of eight bits fewer outliers.

    strength: a, 0 to 1; -1 looks for the one of least error of the layers' outputs, in steps of 0.05. Without
    calibration data only layers behind a norm have it, whose gamma and beta tell how large inputs are."""

    name = "smooth"
    options = {"strength": SEARCH}

    def refusal(self, request: Request) -> str | None:
        strength = request.options["strength"]
        if strength != SEARCH and not 0 <= strength <= 1:
            return f"strength={strength:g} is neither {SEARCH:g} nor from 0 to 1"
        return super().refusal(request)

    def factors(self, group: Sequence[Request], seen: Mapping[str, Statistics]) -> np.ndarray | None:
        found = [input_statistics(request, seen) for request in group]
        inputs = np.max([by_channel(one, stats.peaks).max(axis=1) for one, stats in zip(group, found, strict=True)], 0)
        weights = np.max([by_channel(one, np.abs(one.matrix).max(axis=0)).max(axis=1) for one in group], axis=0)
        strength = group[0].options["strength"]
        if strength != SEARCH:
            return _ratio(inputs, weights, strength)
        least = _error(group, found, np.ones(len(inputs)))
        best = None
        for candidate in np.arange(STEP, 1 + STEP / 2, STEP):
            factors = _ratio(inputs, weights, float(candidate))
            error = _error(group, found, factors)
            if error < least:
                least, best = error, factors
        return best


def _ratio(inputs: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """Relative to its geometric mean; a channel without inputs or without weights stays as it is."""
    alive = (inputs > _TINY) & (weights > _TINY)
    ratio = np.where(alive, inputs.clip(_TINY) ** strength / weights.clip(_TINY) ** (1 - strength), 1.0)
    if alive.any():
        ratio[alive] /= np.exp(np.log(ratio[alive]).mean())
    return ratio


def _error(group: Sequence[Request], found: Sequence[Statistics], factors: np.ndarray) -> float:
    """Of the outputs of all layers: what weights lose when they are rounded, and activations of eight bits."""
    total = 0.0
    for request, stats in zip(group, found, strict=True):
        assert request.encoding is not None
        wide, matrix = spread(request, factors), request.matrix
        scaled = (matrix * wide).astype(np.float32)
        try:
            stored = request.encoding.unpack(request.encoding.pack(scaled), scaled.shape)
        except ValueError:  # a scale outside of what can be stored
            return np.inf
        lost = stored / wide - matrix
        total += float(np.vdot(lost @ stats.hessian, lost))
        if request.rule.act != PLAIN:
            step = (stats.peaks / wide).max() / LEVELS
            total += step**2 / 12 * float(np.vdot(scaled, scaled))
    return total
