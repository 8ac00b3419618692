"""For every encoding with groups the solver that finds its best scales."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.codebook import Codebook
from nomul.ir.encodings.integer import Int4, Int8
from nomul.ir.encodings.palettes import palette
from nomul.ir.encodings.shift import Shift
from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit.solve.lattice import GroupLattice, Parts, Solver
from nomul.passes.fit.solve.planes import (
    bit_combinations,
    solve_bits,
    solve_tied_bits,
    solve_trits,
    trit_combinations,
)
from nomul.passes.fit.solve.scale import Grid, search_range, search_scale

FACTORS = tuple(np.linspace(1, 0.4, 31))  # of the scale that clips nothing
FEW_FACTORS = tuple(np.linspace(1, 0.8, 11))  # eight bits clip little
OCTAVES = tuple(2.0 ** (-np.arange(24) / 16))  # sums of powers of two look alike after a factor of two


def best_solver(encoding: Encoding) -> tuple[Solver, Parts]:
    """The solver of scales, and the parts that all groups share (a palette). Raises ValueError where there is none."""
    if isinstance(encoding, Ternary) and encoding.pack_ != "3of4":
        return _tied_trits(encoding.planes) if encoding.tied else _trits(encoding.planes), {}
    if isinstance(encoding, Bitplane) and encoding.tied:
        return partial(solve_tied_bits, encoding=encoding), {}
    if isinstance(encoding, Bitplane):
        return partial(solve_bits, combinations=bit_combinations(encoding.bits)), {}
    if isinstance(encoding, Int8 | Int4):
        factors = FACTORS if encoding.bits == 4 else FEW_FACTORS
        if encoding.zero:
            return partial(search_range, limits=encoding.limits, factors=factors), {}
        return partial(search_scale, grid=Grid.integers(*encoding.limits), factors=factors), {}
    if isinstance(encoding, Shift):
        grid = Grid.table(shift_sums(encoding))
        return partial(search_scale, grid=grid, factors=tuple(grid.high * factor for factor in OCTAVES)), {}
    if isinstance(encoding, Codebook):
        return palette_solver(palette(encoding.grid, encoding.entries))
    raise ValueError(f"there is no search for the scales of {encoding}")


def best_lattice(encoding: Encoding) -> GroupLattice:
    """Raises ValueError as `best_solver` does."""
    solver, shared = best_solver(encoding)
    return GroupLattice.of(encoding, solver, shared)  # type: ignore[arg-type]


def palette_solver(levels: np.ndarray) -> tuple[Solver, Parts]:
    """For a code book with these levels [entries], integers."""
    return partial(search_scale, grid=Grid.table(levels), factors=FACTORS), {"palette": levels}


def _trits(planes: int) -> Solver:
    return partial(solve_trits, combinations=trit_combinations(planes))


def _tied_trits(planes: int) -> Solver:
    """Integers up to 4 (13 for three planes), the scale absmax / (4 - 0.75 .. 4 + 1.25) in 64 steps."""
    limit = 3**planes // 2
    grid, factors = Grid.integers(-limit, limit), limit / (limit - 0.75 + np.arange(65) / 32)

    def solve(groups: np.ndarray, importance: np.ndarray) -> Parts:
        return {"scale": search_scale(groups, importance, grid, factors)["scale"][None]}

    return solve


def shift_sums(encoding: Shift) -> np.ndarray:
    """Every value that the terms of a shift encoding add up to, for the scale 1."""
    choices = encoding.form.exponents
    if encoding.pack_ == "sp2":
        sums = [sum(terms) for terms in product(*((0.0, *(2.0**e for e in exponents)) for exponents in choices))]
        return np.array([sign * total for total in sums for sign in (1, -1)])
    term = [0.0, *(sign * 2.0**exponent for exponent in choices[0] for sign in (1, -1))]
    return np.unique([sum(terms) for terms in product(term, repeat=encoding.terms)])
