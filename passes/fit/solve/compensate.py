"""Fitting a whole matrix to a lattice: all groups at once, or column by column with error compensation (GPTQ).

Compensation: what a rounded column gets wrong is made up for by the columns that are not rounded yet, as far as the
calibration inputs are correlated. Scales of a group are solved when its first column is reached (as HLQ does),
so they see the weights that the group really has then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nomul.passes.fit.solve.hessian import DAMPING, importance_of, inverse_factor
from nomul.passes.fit.solve.lattice import Lattice, Parts, chunks, rows_of
from nomul.passes.fit.solve.sparse import SparseLattice

STRIP = 128  # columns between updates of all that lie behind them


@dataclass(frozen=True)
class Fitted:
    """parts: as the lattice names them, codes [..., N, K] and scales [..., N, G].  values: [N, K], what they mean."""

    parts: Parts
    values: np.ndarray


def fit_matrix(
    weights: np.ndarray, hessian: np.ndarray | None, lattice: Lattice, group: int, damping: float = DAMPING
) -> Fitted:
    """weights: [N, K].  group: columns of one scale, a divisor of K; 0: all.  hessian: [K, K], None: no calibration.

    damping: of the Hessian, a share of its mean diagonal.  Raises ValueError for scales that cannot be stored."""
    group = group or weights.shape[1]
    if hessian is None:
        return fit_groups(weights, lattice, group)
    return Compensation(weights, inverse_factor(hessian, damping)).fit(lattice, 0, weights.shape[1], group)


def fit_groups(weights: np.ndarray, lattice: Lattice, group: int, importance: np.ndarray | None = None) -> Fitted:
    """Every group by itself. importance: [K] weights of squared errors, or None."""
    rows = len(weights)
    groups = weights.reshape(-1, group)
    spread = None if importance is None else np.tile(importance.reshape(-1, group), (rows, 1))
    scales = lattice.solve(groups, spread)
    pieces = [lattice.project(piece, rows_of(scales, part)) for part, piece in chunks(groups)]
    codes = {name: np.concatenate([piece[name] for piece, _ in pieces], axis=-2) for name in pieces[0][0]}
    parts = {name: array.reshape(*array.shape[:-2], rows, -1) for name, array in (codes | scales).items()}
    return Fitted(parts, np.concatenate([values for _, values in pieces]).reshape(weights.shape))


class Compensation:
    """The columns of a matrix [N, K] while they are rounded from the first to the last. factor: of the inverse Hessian.

    Stretches of columns may have lattices of their own, but must be fitted in order."""

    def __init__(self, weights: np.ndarray, factor: np.ndarray) -> None:
        self.work = weights.astype(np.float64)
        self.factor, self.importance = factor, importance_of(factor)

    def fit(self, lattice: Lattice, start: int, stop: int, group: int) -> Fitted:
        """Round the columns start..stop in groups; what is left to make up for goes into the columns behind them."""
        pieces: list[Parts] = []
        values = np.empty((len(self.work), stop - start))
        run = lattice.of if isinstance(lattice, SparseLattice) else 1
        step = max(1, STRIP // run) * run
        for first in range(start, stop, group):
            last = first + group
            scales = lattice.solve(self.work[:, first:last], self.importance[first:last])
            pieces.append(scales)
            for low in range(first, last, step):
                high = min(low + step, last)
                codes, values[:, low - start : high - start] = self._round(lattice, scales, low, high)
                pieces += codes
        names = dict.fromkeys(name for piece in pieces for name in piece)
        joined = {name: np.concatenate([p[name] for p in pieces if name in p], axis=-1) for name in names}
        return Fitted(joined, values)

    def _round(self, lattice: Lattice, scales: Parts, low: int, high: int) -> tuple[list[Parts], np.ndarray]:
        """Round a strip column by column, each updating those behind it: codes by column, and values."""
        columns = np.array(self.work[:, low:high].T, order="C")  # a column in one piece
        errors, values = np.empty_like(columns), np.empty_like(columns)
        block, pieces = self.factor[low:high, low:high], []
        kept = np.empty((0, 0), bool)
        for index in range(high - low):
            column = columns[index][:, None]
            if isinstance(lattice, SparseLattice):
                place = index % lattice.of
                if place == 0:
                    run = slice(index, index + lattice.of)
                    kept = lattice.choose(columns[run].T, self.importance[low:high][run], scales)
                codes, near = lattice.project_kept(column, kept[:, [place]], scales)
            else:
                codes, near = lattice.project(column, scales)
            pieces.append(codes)
            values[index] = near[:, 0]
            errors[index] = (columns[index] - values[index]) / block[index, index]
            columns[index + 1 :] -= block[index, index + 1 :, None] * errors[index]
        self.work[:, high:] -= errors.T @ self.factor[low:high, high:]
        return pieces, values.T


def fit_blocks(
    weights: np.ndarray, hessian: np.ndarray, block: int, pack: Callable[[np.ndarray], tuple[Parts, np.ndarray]]
) -> Parts:
    """For encodings that must see whole blocks of columns: each block at once, its errors made up for by later ones.

    pack: the parts of a block [N, block] and the values that they mean."""
    work, factor = weights.astype(np.float64), inverse_factor(hessian)
    pieces: list[Parts] = []
    for start in range(0, work.shape[1], block):
        stop = start + block
        parts, values = pack(work[:, start:stop])
        pieces.append(parts)
        error = np.linalg.solve(factor[start:stop, start:stop].T, (work[:, start:stop] - values).T)
        work[:, stop:] -= error.T @ factor[start:stop, stop:]
    return {name: np.concatenate([piece[name] for piece in pieces], axis=-1) for name in pieces[0]}
