"""What the definitions of ops share: special functions that numpy lacks, in double precision, and wider arithmetic."""

from __future__ import annotations

import numpy as np


def wide(x: np.ndarray) -> np.ndarray:
    """f16 and bf16 as f32, in which sums of squares neither overflow nor lose all digits; others as they are."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iu" else x


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969); three ranges of |x|.
_SMALL_P = (
    3.16112374387056560e00,
    1.13864154151050156e02,
    3.77485237685302021e02,
    3.20937758913846947e03,
    1.85777706184603153e-1,
)
_SMALL_Q = (2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)
_MIDDLE_P = (
    5.64188496988670089e-1,
    8.88314979438837594e00,
    6.61191906371416295e01,
    2.98635138197400131e02,
    8.81952221241769090e02,
    1.71204761263407058e03,
    2.05107837782607147e03,
    1.23033935479799725e03,
    2.15311535474403846e-8,
)
_MIDDLE_Q = (
    1.57449261107098347e01,
    1.17693950891312499e02,
    5.37181101862009858e02,
    1.62138957456669019e03,
    3.29079923573345963e03,
    4.36261909014324716e03,
    3.43936767414372164e03,
    1.23033935480374942e03,
)
_LARGE_P = (
    3.05326634961232344e-1,
    3.60344899949804439e-1,
    1.25781726111229246e-1,
    1.60837851487422766e-2,
    6.58749161529837803e-4,
    1.63153871373020978e-2,
)
_LARGE_Q = (
    2.56852019228982242e00,
    1.87295284992346725e00,
    5.27905102951428412e-1,
    6.05183413124413191e-2,
    2.33520497626869185e-3,
)


def _ratio(p: tuple[float, ...], q: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    """Cody's form: p's last coefficient leads, the others follow; q is monic."""
    top, bottom = p[-1] * x, x
    for a, b in zip(p[:-2], q[:-1], strict=True):
        top, bottom = (top + a) * x, (bottom + b) * x
    return (top + p[-2]) / (bottom + q[-1])


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, elementwise, to about 1e-15; the result has the dtype of `x`."""
    wide = np.asarray(x, np.float64)
    size = np.abs(wide)
    small = wide * _ratio(_SMALL_P, _SMALL_Q, np.minimum(size, 0.5) ** 2)
    inside = np.clip(size, 0.46875, 4.0)
    middle = 1.0 - np.exp(-inside * inside) * _ratio(_MIDDLE_P, _MIDDLE_Q, inside)
    outside = np.clip(size, 4.0, 30.0)
    square = 1.0 / (outside * outside)
    tail = (1.0 / np.sqrt(np.pi) - square * _ratio(_LARGE_P, _LARGE_Q, square)) / outside
    large = 1.0 - np.exp(-outside * outside) * tail
    result = np.where(size <= 0.46875, small, np.copysign(np.where(size <= 4.0, middle, large), wide))
    return np.where(np.isnan(wide), wide, result).astype(np.asarray(x).dtype)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow, of the dtype of `x`."""
    decay = np.exp(-np.abs(x))
    return (np.where(x >= 0, 1, decay) / (1 + decay)).astype(x.dtype)


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + exp(x)) without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
