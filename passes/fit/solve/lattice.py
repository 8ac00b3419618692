"""A lattice: what the weights of one scale group may become under an encoding, and how its scales are chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from nomul.ir.encodings.grouped import Grouped

Parts = dict[str, np.ndarray]  # as `Encoding.parts`: scales end in the number of groups, codes in that of columns
Solver = Callable[[np.ndarray, np.ndarray], Parts]  # groups [R, k], importance [R or 1, k] -> scales [..., R], f64

CHUNK = 1 << 17  # weights that a solver works on at a time: about what a core's cache holds


class Lattice(ABC):
    """Codes are chosen for scales as they are stored, so that they are the nearest ones of what will be read."""

    @abstractmethod
    def solve(self, groups: np.ndarray, importance: np.ndarray | None = None) -> Parts:
        """Scales [..., R, 1] of groups [R, k], as stored. importance: weights of squared errors, [k] or [R, k].

        Raises ValueError for scales that cannot be stored."""

    @abstractmethod
    def project(self, values: np.ndarray, scales: Parts) -> tuple[Parts, np.ndarray]:
        """The codes, and the values (f64) that they mean, nearest to values [R, k] of R groups."""


@dataclass(frozen=True)
class GroupLattice(Lattice):
    """encoding: with group=0, since each row given to it is one group.  solver: its real-valued scales.
    shared: parts that all groups have in common, such as a palette."""

    encoding: Grouped
    solver: Solver
    shared: Parts = field(default_factory=dict)

    @staticmethod
    def of(encoding: Grouped, solver: Solver, shared: Parts | None = None) -> GroupLattice:
        return GroupLattice(regrouped(encoding, 0), solver, shared or {})

    def solve(self, groups: np.ndarray, importance: np.ndarray | None = None) -> Parts:
        weights = np.ones((1, groups.shape[1])) if importance is None else np.atleast_2d(importance)
        pieces = [self.solver(part, weights[rows] if len(weights) > 1 else weights) for rows, part in chunks(groups)]
        whole = {name: np.concatenate([piece[name] for piece in pieces], axis=-1) for name in pieces[0]}
        return {name: as_stored(self.encoding, values)[..., None] for name, values in whole.items()}

    def project(self, values: np.ndarray, scales: Parts) -> tuple[Parts, np.ndarray]:
        given = scales | self.shared
        parts = self.encoding.nearest(values, given)
        codes = {name: array for name, array in parts.items() if name not in given}
        return codes, self.encoding.values(parts).astype(np.float64)


def regrouped(encoding: Grouped, group: int) -> Grouped:
    """The same encoding with another size of groups."""
    return replace(encoding, group=group)  # type: ignore[call-arg]  # a field of every subclass


def as_stored(encoding: Grouped, values: np.ndarray) -> np.ndarray:
    """Real scales as the encoding keeps them; zero points are integers already."""
    return encoding.rounded(values) if values.dtype.kind == "f" else values


def chunks(groups: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows [R, k] in pieces of about CHUNK weights, as f64; one piece for no rows."""
    step = max(1, CHUNK // max(1, groups.shape[1]))
    for start in range(0, max(1, len(groups)), step):
        rows = slice(start, min(start + step, len(groups)))
        yield rows, groups[rows].astype(np.float64)


def rows_of(scales: Parts, rows: slice) -> Parts:
    """The scales of some groups: [..., R, 1] in, [..., r, 1] out."""
    return {name: values[..., rows, :] for name, values in scales.items()}
