"""Scales of bit-planes and their offset as integers of eight bits times one scale, so that weights are integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nomul.ir.encodings.low_bit import Parts

LIMIT = 127
_WIDER = 1 + 2.0**-7  # of a scale with which some integer is too large


def tie(
    scale: np.ndarray, offset: np.ndarray, stored: Callable[[np.ndarray], np.ndarray], limit: float = LIMIT
) -> dict[str, np.ndarray]:
    """scale, ratio and base that come nearest to real scales [planes, ...] and offsets [...].

    Planes of a negative scale are turned round: what their zeros and ones mean changes places. stored: rounds scales
    as the bytes hold them.  limit: the largest magnitude of a weight, at most 127, which rounding may pass."""
    lowest, size = offset + np.minimum(scale, 0).sum(axis=0), np.abs(scale)
    step = np.maximum(np.abs(lowest), np.abs(lowest + size.sum(axis=0))) / limit
    while True:
        unit = stored(step)
        ratio, base = _steps(size, unit), _steps(lowest, unit)
        outside = ~_fits(ratio, base)
        if not outside.any():
            return {"scale": unit, "ratio": ratio.astype(np.uint8), "base": base.astype(np.int8)}
        step = np.where(outside, np.maximum(step, unit) * _WIDER, step)


def check_tied(ratio: np.ndarray, base: np.ndarray) -> None:
    """Raises ValueError where integers are outside of what eight bits hold. ratio: [planes, ...].  base: [...]."""
    if ratio.size and ratio.min() < 0:
        raise ValueError(f"the ratio {ratio.min()} is negative")
    outside = ~_fits(ratio, base)
    if outside.any():
        low, high = base[outside].flat[0], (base + ratio.sum(axis=0, dtype=np.int64))[outside].flat[0]
        raise ValueError(f"weights from {low:g} to {high:g} times their scale are outside -{LIMIT} to {LIMIT}")


def levels(parts: Parts) -> np.ndarray:
    """i16 [..., codes]: the integer of each code, whose bit p is that of plane p."""
    ratio = parts["ratio"].astype(np.int16)
    codes = np.arange(1 << len(ratio))
    total = np.repeat(parts["base"].astype(np.int16)[..., None], len(codes), axis=-1)
    for plane, steps in enumerate(ratio):
        total += steps[..., None] * (codes >> plane & 1).astype(np.int16)
    return total


def _steps(value: np.ndarray, unit: np.ndarray) -> np.ndarray:
    wide = np.broadcast_to(unit.astype(np.float64), value.shape)
    return np.rint(np.divide(value, wide, out=np.zeros(value.shape), where=wide != 0))


def _fits(ratio: np.ndarray, base: np.ndarray) -> np.ndarray:
    return np.asarray((base >= -LIMIT) & (base + ratio.sum(axis=0, dtype=np.float64) <= LIMIT))
