"""Estimated times, by which selection chooses among kernels of one rank where nothing was measured (`--tune`).

An estimate is in cycles of one core at a number of rows of activations. Kernels state theirs beside their code: counts
of instructions on 64 bytes, with factors which `benchmarks/linear.py` showed on Zen 4; of narrower ones a core
is taken to do as many more a cycle. One layout of weights serves all levels of a library, so all of them have a say,
each a third as much as the one above."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, hypot, log

from nomul.backends.group import Group
from nomul.backends.registry import Kernel
from nomul.backends.target import Target
from nomul.ir.dim import Dim, Range, product

USUAL = 128  # rows, where more are allowed
_STEP = 1 / 3  # the say of a level beside that of the next better one
_READ = 8.0  # bytes of a cycle that come from memory


def with_memory(cycles: float, weight_bytes: float) -> float:
    """Cycles of arithmetic while so many bytes of weights are read; the two overlap in part."""
    return hypot(cycles, weight_bytes / _READ)


def typical_rows(rows: Dim, ranges: Mapping[str, Range]) -> tuple[int, ...]:
    """The fewest rows, the usual number of them, and one between."""
    low, high = (max(1, int(min(bound, 2**31))) for bound in rows.bounds(ranges))
    usual = max(low, min(high, USUAL))
    return tuple(dict.fromkeys((low, round((low * usual) ** 0.5), usual)))


def estimate(kernel: Kernel, group: Group, levels: Sequence[Target]) -> dict[int, float]:
    """Cycles by number of rows; empty where the kernel states none. levels: that it serves, best first."""
    if kernel.cost is None or group.anchor is None or not levels:
        return {}
    rows = typical_rows(product(group.anchor.result.shape[:-1]), group.ranges)
    return {count: mean([kernel.cost(group, level, count) for level in levels], _STEP) for count in rows}


def mean(times: Iterable[float], step: float = 1.0) -> float:
    """Geometric; weights are 1, step, step * step, ..."""
    weighted = [(step**place, log(time)) for place, time in enumerate(times)]
    return exp(sum(weight * time for weight, time in weighted) / sum(weight for weight, _ in weighted))
