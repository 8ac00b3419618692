"""Planes of trits with one zero in each four: four by four, all else given, brought nearer to the layer's outputs."""

from __future__ import annotations

from itertools import product

import numpy as np

from nomul.ir.encodings.grouped import Grouped
from nomul.passes.fit.solve.lattice import Parts

SWEEPS = 4
PATTERNS = np.array([np.insert(signs, zero, 0) for zero in range(4) for signs in product((1.0, -1.0), repeat=3)])


def descend_fours(encoding: Grouped, parts: Parts, matrix: np.ndarray, hessian: np.ndarray) -> Parts:
    """Lowers tr(E H E^T), E the error of the weights: each four in turn gets the best of its 32 patterns, each scale
    its best value, while all others stay (block coordinate descent, as QuantEase, arXiv 2309.01885, for columns).

    parts: trits i8 [planes, N, K], scale [planes, N, G].  matrix: [N, K].  hessian: [K, K], positive definite.
    Raises ValueError for scales that cannot be stored."""
    trits, scale = parts["trits"].astype(np.float64), parts["scale"].astype(np.float64)
    values = encoding.values(parts).astype(np.float64)
    size = encoding.group or matrix.shape[1]
    for _ in range(SWEEPS):
        slope = (values - matrix) @ hessian
        for group in range(scale.shape[-1]):
            columns = slice(group * size, (group + 1) * size)
            own_trits, own_scale = trits[:, :, columns], scale[:, :, group]
            _descend_group(encoding, own_trits, own_scale, slope[:, columns].copy(), hessian[columns, columns])
            found = np.einsum("pnk,pn->nk", own_trits, own_scale)
            slope += (found - values[:, columns]) @ hessian[columns]
            values[:, columns] = found
    return {"trits": trits.astype(np.int8), "scale": scale.astype(np.float32)}


def _descend_group(
    encoding: Grouped, trits: np.ndarray, scale: np.ndarray, slope: np.ndarray, hessian: np.ndarray
) -> None:
    """Changes trits [planes, N, k], scale [planes, N] and slope [N, k] of one group, plane by plane."""
    for plane, size in zip(trits, scale, strict=True):
        for start in range(0, plane.shape[1], 4):
            four = slice(start, start + 4)
            old = plane[:, four].copy()
            plane[:, four] = _best_patterns(slope[:, four], old, size[:, None], hessian[four, four])
            slope += ((plane[:, four] - old) * size[:, None]) @ hessian[four]
        curvature = np.sum(plane @ hessian * plane, axis=1)
        wanted = size - np.sum(slope * plane, axis=1) / curvature
        found = encoding.rounded(np.where(wanted > 0, wanted, size)).astype(np.float64)
        slope += ((found - size)[:, None] * plane) @ hessian
        size[:] = found


def _best_patterns(slope: np.ndarray, old: np.ndarray, size: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """[N, 4] of least error where `old` [N, 4] times size [N, 1] lies now, with that slope. hessian: [4, 4]."""
    without = slope - (size * old) @ hessian
    curvature = np.einsum("pi,ij,pj->p", PATTERNS, hessian, PATTERNS)
    return PATTERNS[np.argmin(size * (without @ PATTERNS.T) + size**2 / 2 * curvature, axis=1)]
