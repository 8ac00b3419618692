"""Dual scales: a factor for each input column beside those of the groups (D2Quant, arXiv 2602.02546)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nomul.passes.calibrate import Statistics
from nomul.passes.fit import find_fitter
from nomul.passes.transforms.base import Refused, Request
from nomul.passes.transforms.column_scaling import ColumnScaling, by_channel, spread

ROUNDS = 8


class ColumnScale(ColumnScaling):
    """A factor for each column of weights moves into what makes the inputs.

    Least squares factors s and the encoding of W / s in turn; s goes into what makes the inputs, so that it costs
    nothing when the model runs. With calibration data, errors are weighted by the size of the inputs."""

    name = "column_scale"

    def factors(self, group: Sequence[Request], seen: Mapping[str, Statistics]) -> np.ndarray | None:
        weights = [_importance(request, seen) for request in group]
        best, factors = None, np.ones(int(group[0].weight.shape[1]))
        least = np.inf
        for turn in range(ROUNDS):
            error, inner, norm = 0.0, np.zeros(len(factors)), np.zeros(len(factors))
            for request, importance in zip(group, weights, strict=True):
                wide, matrix = spread(request, factors), request.matrix
                stored = _stored(request, matrix / wide)
                error += float(np.sum(importance * (matrix - stored * wide) ** 2))
                inner += by_channel(request, np.sum(importance * matrix * stored, axis=0)).sum(axis=1)
                norm += by_channel(request, np.sum(importance * stored**2, axis=0)).sum(axis=1)
            if error < least:
                least, best = error, factors if turn else None
            factors = np.where((norm > 0) & (inner > 0), inner / np.where(norm > 0, norm, 1.0), factors)
        return None if best is None else 1 / best


def _importance(request: Request, seen: Mapping[str, Statistics]) -> np.ndarray:
    """[K]: mean squares of the inputs."""
    if request.weight.name not in seen:
        return np.ones(request.matrix.shape[1])
    return np.diag(seen[request.weight.name].hessian).clip(min=0)


def _stored(request: Request, matrix: np.ndarray) -> np.ndarray:
    """What the default fitter makes of weights without knowing their inputs. Raises Refused where it cannot."""
    assert request.encoding is not None
    array = matrix.astype(np.float32)
    try:
        fields = find_fitter(None, request.encoding)(array, None, request.encoding)
    except ValueError as error:
        raise Refused(str(error)) from None
    return request.encoding.unpack(fields, array.shape).astype(np.float64)
