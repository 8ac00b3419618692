"""Parts of sums of planes, each with a scale of its own: trit-planes (PTQTP), and bit-planes with an offset (HLQ)."""

from __future__ import annotations

from itertools import product

import numpy as np

from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.tied_planes import LIMIT, tie
from nomul.passes.fit.solve.lattice import Parts

RIDGE, RIDGE_MOST, CONDITION_MOST = 1e-8, 1.0, 1e6
SETTLED, ITERATIONS = 1e-4, 50
ALTERNATIONS = 10
LIMITS = tuple(LIMIT - step for step in range(0, 24, 3))  # largest magnitudes of tied planes' weights that are tried


def trit_combinations(planes: int) -> np.ndarray:
    """[3**planes, planes], in the order in which ties are broken: fewest non-zero trits first, then the last planes
    before the first, -1 before 1. For two planes (0,0) (0,-1) (0,1) (-1,0) (1,0) (-1,-1) (-1,1) (1,-1) (1,1)."""
    every = product((-1, 0, 1), repeat=planes)
    return np.array(sorted(every, key=lambda trits: (sum(map(abs, trits)), tuple(map(abs, trits)), trits)))


def bit_combinations(planes: int) -> np.ndarray:
    """[2**planes, planes]: bit p of the code."""
    return (np.arange(2**planes)[:, None] >> np.arange(planes)) & 1


def levels_of(combinations: np.ndarray, scales: Parts) -> np.ndarray:
    """[R, V]: the values that the codes of each group mean. Planes are added in order, then the offset."""
    levels = np.zeros((scales["scale"].shape[1], len(combinations)))
    for plane, scale in enumerate(scales["scale"]):
        levels += scale[:, None] * combinations[:, plane]
    return levels + scales["offset"][:, None] if "offset" in scales else levels


def nearest_level(values: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Codes [R, k] of the nearest of levels [R, V]; the first of equally near ones."""
    best = np.full(values.shape, np.inf)
    codes = np.zeros(values.shape, np.int64)
    for code in range(levels.shape[1]):
        error = (values - levels[:, code, None]) ** 2
        better = error < best
        np.copyto(best, error, where=better)
        codes[better] = code
    return codes


def solve_trits(groups: np.ndarray, importance: np.ndarray, combinations: np.ndarray) -> Parts:
    """PTQTP's progressive solve: ridge regression of the scales and exhaustive choice of the trits in turn, from equal
    sign planes, until the scales move less than SETTLED. groups: [R, k] f64. Groups that settled are left alone."""
    rows, planes = len(groups), combinations.shape[1]
    scale, trits = np.zeros((planes, rows)), np.repeat(np.sign(groups)[None], planes, axis=0)
    ridge = np.full(rows, RIDGE)
    weights = np.broadcast_to(importance / importance.mean(axis=1, keepdims=True), groups.shape)
    active = np.arange(rows)
    for _ in range(ITERATIONS):
        found, ridge[active] = _regress(trits, groups[active], weights[active], ridge[active])
        moved = np.sqrt(np.sum((found - scale[:, active]) ** 2, axis=0)) >= SETTLED
        scale[:, active] = found
        active, found = active[moved], found[:, moved]
        if not active.size:
            break
        codes = nearest_level(groups[active], levels_of(combinations, {"scale": found}))
        trits = np.moveaxis(combinations[codes], -1, 0).astype(np.float64)
    return {"scale": scale}


def _regress(
    planes: np.ndarray, groups: np.ndarray, weights: np.ndarray, ridge: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Parts [P, R] of least weighted squared error, and the ridge [R] that made the normal equations well-posed."""
    count = len(planes)
    weighted = planes * weights
    gram = np.einsum("prk,qrk->rpq", weighted, planes)
    right = np.einsum("prk,rk->rp", weighted, groups)
    ridge = ridge.copy()
    while True:
        matrix = gram + ridge[:, None, None] * np.eye(count)
        inverse = _inverse(matrix)
        condition = np.linalg.norm(matrix, axis=(1, 2)) * np.linalg.norm(inverse, axis=(1, 2))
        poor = ~(condition <= CONDITION_MOST) & (ridge < RIDGE_MOST)
        if not poor.any():
            return np.einsum("rpq,rq->pr", inverse, right), ridge
        ridge[poor] = np.minimum(10 * ridge[poor], RIDGE_MOST)


def _inverse(matrix: np.ndarray) -> np.ndarray:
    """[R, P, P], P <= 3, symmetric, by cofactors: equal planes then get exactly equal scales, so that the order of ties
    counts, and no library's rounding does."""
    count = matrix.shape[1]
    padded = np.broadcast_to(np.eye(3), (len(matrix), 3, 3)).copy()
    padded[:, :count, :count] = matrix
    one, two, three = padded[:, 0], padded[:, 1], padded[:, 2]
    adjugate = np.stack([np.cross(two, three), np.cross(three, one), np.cross(one, two)], axis=1)
    determinant = np.sum(one * adjugate[:, 0], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (adjugate / determinant[:, None, None])[:, :count, :count]


def solve_bits(groups: np.ndarray, importance: np.ndarray, combinations: np.ndarray) -> Parts:
    """HLQ's alternating fit: nearest levels and least squares of scales and offset in turn, from a uniform grid.

    groups: [R, k] f64. The best scales met are kept, since a level without weights can make a round worse."""
    planes = combinations.shape[1]
    low, spread = groups.min(axis=1), np.ptp(groups, axis=1)
    scales: Parts = {"scale": spread * 2.0 ** np.arange(planes)[:, None] / (2**planes - 1), "offset": low}
    best, kept = np.full(len(groups), np.inf), {name: values.copy() for name, values in scales.items()}
    for _ in range(ALTERNATIONS + 1):
        levels = levels_of(combinations, scales)
        codes = nearest_level(groups, levels)
        error = np.sum(importance * (groups - np.take_along_axis(levels, codes, axis=1)) ** 2, axis=1)
        better = error < best
        best = np.where(better, error, best)
        kept = {name: np.where(better, values, kept[name]) for name, values in scales.items()}
        scales = _regress_bits(combinations[codes], groups, importance)
    return kept


def solve_tied_bits(groups: np.ndarray, importance: np.ndarray, encoding: Bitplane) -> Parts:
    """Integers near HLQ's scales: of several roundings, by the largest weight in units of the scale, the one of least
    error with the nearest levels. groups: [R, k] f64."""
    combinations = bit_combinations(encoding.bits)
    real = solve_bits(groups, importance, combinations)
    best = np.full(len(groups), np.inf)
    kept: Parts = {}
    for limit in LIMITS:
        tied = tie(real["scale"], real["offset"], encoding.rounded, limit)
        scale, offset = encoding.real_scales(tied)
        levels = levels_of(combinations, {"scale": scale, "offset": offset})
        near = np.take_along_axis(levels, nearest_level(groups, levels), axis=1)
        error = np.sum(importance * (groups - near) ** 2, axis=1)
        better = error < best
        best = np.where(better, error, best)
        kept = {name: np.where(better, values, kept.get(name, values)) for name, values in tied.items()}
    return kept


def _regress_bits(bits: np.ndarray, groups: np.ndarray, importance: np.ndarray) -> Parts:
    """Least squares of scales [P, R] and offset [R] for given bits [R, k, P]."""
    basis = np.concatenate([bits, np.ones((*bits.shape[:2], 1))], axis=2)
    weighted = basis * importance[:, :, None]
    gram = np.einsum("rkp,rkq->rpq", weighted, basis, optimize=True)
    right = np.einsum("rkp,rk->rp", weighted, groups, optimize=True)
    found = np.einsum("rpq,rq->pr", np.linalg.pinv(gram, hermitian=True), right)
    return {"scale": found[:-1], "offset": found[-1]}
