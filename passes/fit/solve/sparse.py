"""N:M sparsity: a fixed number of each few consecutive weights stays, in another lattice; the others are zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.encodings.grouped import Grouped
from nomul.passes.fit.solve.lattice import Lattice, Parts, as_stored

ROUNDS = 3  # of choosing what is kept, and scales for it
KEPT = "kept"  # the part that says where the weights are that are kept


def mean_magnitude(groups: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """[R]: the least squares scale of signs, the weighted mean magnitude."""
    total = np.broadcast_to(importance, groups.shape).sum(axis=1)
    weighted = np.sum(importance * np.abs(groups), axis=1)
    return np.divide(weighted, total, out=np.zeros(len(groups)), where=total > 0)


@dataclass(frozen=True)
class SignLattice(Lattice):
    """scale * {-1, 1}, as one plane of trits that are never zero. encoding: says how the scale is stored."""

    encoding: Grouped

    def solve(self, groups: np.ndarray, importance: np.ndarray | None = None) -> Parts:
        weights = np.ones((1, 1)) if importance is None else np.atleast_2d(importance)
        return {"scale": as_stored(self.encoding, mean_magnitude(groups, weights))[None, :, None]}

    def project(self, values: np.ndarray, scales: Parts) -> tuple[Parts, np.ndarray]:
        signs = np.where(values < 0, -1, 1).astype(np.int8)
        return {"trits": signs[None]}, signs * scales["scale"][0].astype(np.float64)


@dataclass(frozen=True)
class FloatLattice(Lattice):
    """Floats of a dtype, without scales."""

    dtype: np.dtype

    def solve(self, groups: np.ndarray, importance: np.ndarray | None = None) -> Parts:
        return {}

    def project(self, values: np.ndarray, scales: Parts) -> tuple[Parts, np.ndarray]:
        rounded = values.astype(self.dtype)
        return {"data": rounded}, rounded.astype(np.float64)


@dataclass(frozen=True)
class SparseLattice(Lattice):
    """`keep` of each `of` consecutive weights in the inner lattice. Codes of the inner lattice stand for all weights;
    the part KEPT [R, k] says which ones count. Groups are counted in all weights."""

    inner: Lattice
    keep: int
    of: int

    def solve(self, groups: np.ndarray, importance: np.ndarray | None = None) -> Parts:
        weights = np.ones(groups.shape) if importance is None else np.broadcast_to(importance, groups.shape)
        kept = keep_largest(weights * groups**2, self.keep, self.of)
        scales = self.inner.solve(compact(groups, kept), compact(weights, kept))
        for _ in range(ROUNDS - 1 if scales else 0):
            kept = self.choose(groups, weights, scales)
            scales = self.inner.solve(compact(groups, kept), compact(weights, kept))
        return scales

    def choose(self, values: np.ndarray, importance: np.ndarray, scales: Parts) -> np.ndarray:
        """What to keep [R, k]: those whose weighted squared error would grow most as zeros. k % of == 0."""
        _, near = self.inner.project(values, scales)
        return keep_largest(importance * (values**2 - (values - near) ** 2), self.keep, self.of)

    def project(self, values: np.ndarray, scales: Parts) -> tuple[Parts, np.ndarray]:
        return self.project_kept(values, self.choose(values, np.ones((1, 1)), scales), scales)

    def project_kept(self, values: np.ndarray, kept: np.ndarray, scales: Parts) -> tuple[Parts, np.ndarray]:
        """As `project`, for a choice [R, k] that was made before."""
        codes, near = self.inner.project(values, scales)
        return {KEPT: kept, **codes}, np.where(kept, near, 0.0)


def keep_largest(score: np.ndarray, keep: int, of: int) -> np.ndarray:
    """True for the `keep` largest of each `of` consecutive scores [R, k]; the first of equal ones."""
    runs = score.reshape(len(score), -1, of)
    order = np.argsort(-runs, axis=2, kind="stable")
    kept = np.zeros(runs.shape, bool)
    np.put_along_axis(kept, order[..., :keep], True, axis=2)
    return kept.reshape(score.shape)


def compact(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept ones [..., R, k'] of each row of values [..., R, k]: every row keeps equally many."""
    places = np.nonzero(kept)[1].reshape(len(kept), -1)
    return np.take_along_axis(values, np.broadcast_to(places, (*values.shape[:-2], *places.shape)), axis=-1)
