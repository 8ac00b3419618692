"""The grids of `codebook`: small integers, of which every weight is one, times the scale of its group."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

LIMIT = 127


def palette(grid: str, entries: int) -> np.ndarray:
    """f32 [entries]: integers from -127 to 127. Raises ValueError for a grid that does not have so many."""
    if grid in FIXED and entries != 16:
        raise ValueError(f"grid={grid} has 16 entries, not {entries}")
    return as_integers((FIXED | STORED)[grid](entries))


def as_integers(levels: np.ndarray) -> np.ndarray:
    """f32: the levels themselves where they are integers up to 127, else scaled so that the largest is 127, rounded."""
    largest = np.abs(levels).max()
    if largest <= LIMIT and np.array_equal(levels, np.rint(levels)):
        return np.asarray(levels, np.float32)
    return np.rint(np.asarray(levels, np.float64) * (LIMIT / largest)).astype(np.float32)


def _minifloat(exponent_bits: int, mantissa_bits: int) -> np.ndarray:
    """Sign and magnitude, in units of the least step: 2**(e - 1) (2**M + m), and m where e is 0."""
    magnitudes = []
    for code in range(2 ** (exponent_bits + mantissa_bits)):
        exponent, mantissa = code >> mantissa_bits, code % (1 << mantissa_bits)
        magnitudes.append(mantissa if exponent == 0 else (1 << mantissa_bits | mantissa) << (exponent - 1))
    return np.array([*magnitudes, *(-magnitude for magnitude in magnitudes)], np.float64)


def _normal(entries: int) -> np.ndarray:
    """Quantiles of the normal distribution with an exact zero: QLoRA's NF4 (arXiv 2305.14314) where entries is 16."""
    half, quantile = entries // 2, NormalDist().inv_cdf
    end = 1 - (1 / (2 * entries) + 1 / (2 * entries - 2)) / 2
    positive = [quantile(p) for p in np.linspace(end, 0.5, half + 1)[:-1]]
    negative = [-quantile(p) for p in np.linspace(end, 0.5, half)[:-1]]
    levels = np.array(sorted([*negative, 0.0, *positive]))
    return levels / levels.max()


def power(entries: int, exponent: float = 0.5) -> np.ndarray:
    """PowerQuant's levels (q / Q)**(1 / exponent), -Q <= q <= Q = entries / 2 - 1 (arXiv 2301.09858), and a spare 0."""
    most = entries // 2 - 1
    steps = np.arange(-most, most + 1) / most
    return np.append(np.sign(steps) * np.abs(steps) ** (1 / exponent), 0.0)


def twin_log(entries: int, steps: tuple[float, float] = (0.5, 0.5), ends: tuple[float, float] = (1, 1)) -> np.ndarray:
    """LRQ-DiT's levels: end * 2**(-step i), positive and negative ones with steps and ends of their own."""
    places = np.arange(entries // 2)
    return np.concatenate(
        [sign * end * 2.0 ** (-step * places) for sign, step, end in zip((1, -1), steps, ends, strict=True)]
    )


FIXED: dict[str, Callable[[int], np.ndarray]] = {
    "e2m1": lambda entries: _minifloat(2, 1),
    "e1m2": lambda entries: _minifloat(1, 2),
    "e3m0": lambda entries: _minifloat(3, 0),
    "nf4": _normal,
}
STORED: dict[str, Callable[[int], np.ndarray]] = {"free": _normal, "power": power, "twinlog": twin_log}
