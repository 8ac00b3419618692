"""Keeps every size that the driver computes inside 64 bits: caps dims without an upper bound, refuses what cannot fit.

The driver checks the ranges of the dims first and then computes without overflow checks, because of this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf

from nomul.backends.plan import Plan
from nomul.ir.dim import Atom, Dim, product
from nomul.ir.errors import NomulError

LARGEST_SIZE = 2**60  # bytes of a port or the arena; elements, tiles
LARGEST_THREAD_SCRATCH = 2**52  # times NM_MAX_THREADS stays below LARGEST_SIZE

IntRanges = dict[str, tuple[int, int]]


def closed_ranges(plan: Plan) -> IntRanges:
    """The range of each dim with finite ends: a dim without an upper bound gets the largest at which all sizes fit.

    Raises NomulError where the declared ranges alone overflow."""
    used = _used_dims(plan)
    declared_ranges = {name: ends for name, ends in plan.dims.items() if name in used}
    for power in range(31, 0, -1):
        ranges = {name: _close(low, high, 2**power - 1) for name, (low, high) in declared_ranges.items()}
        if _fits(plan, ranges):
            return ranges
        if all(high != inf for _, high in declared_ranges.values()):
            break
    declared = ", ".join(f"{name} in [{low}, {high}]" for name, (low, high) in declared_ranges.items())
    raise NomulError("NM502", f"sizes overflow 64 bits for {declared}", help="declare smaller ranges: --dim S=1:512")


def _used_dims(plan: Plan) -> frozenset[str]:
    sizes = [*_sizes(plan), *(step.scratch for step in plan.steps), *(size for slot in plan.slots for size in slot)]
    return frozenset(name for step in plan.steps for name in step.dims).union(*(size.names() for size in sizes))


def _close(low: int, high: int | float, cap: int) -> tuple[int, int]:
    return (int(low), max(int(low), cap) if high == inf else int(high))


def _fits(plan: Plan, ranges: IntRanges) -> bool:
    arena = sum(max((magnitude(size, ranges) for size in slot), default=0) + 64 for slot in plan.slots)
    scratch = max((magnitude(step.scratch, ranges) for step in plan.steps), default=0)
    others = max((magnitude(dim, ranges) for dim in _sizes(plan)), default=0)
    return arena < LARGEST_SIZE and scratch < LARGEST_THREAD_SCRATCH and others < LARGEST_SIZE


def _sizes(plan: Plan) -> Iterable[Dim]:
    for port in (*plan.inputs, *plan.outputs):
        yield product(port.shape) * port.dtype.bytes
        yield from port.shape
    for step in plan.steps:
        yield step.tiles
        yield from (location.offset for location in step.args)


def magnitude(dim: Dim, ranges: Mapping[str, tuple[int, int]]) -> int:
    """An upper bound for the absolute value of `dim` and of every partial result of computing it."""
    total = 0
    for monomial, factor in dim.terms:
        term = abs(factor)
        for atom in monomial:
            term *= max(1, _atom_magnitude(atom, ranges))
        total += term
    return total


def _atom_magnitude(atom: Atom, ranges: Mapping[str, tuple[int, int]]) -> int:
    if isinstance(atom, str):
        return max(abs(end) for end in ranges[atom])
    return magnitude(atom.numerator, ranges)  # the dividend is a partial result too
