"""Estimated times, by which selection chooses among kernels of one rank where nothing was measured (`--tune`).

An estimate is in cycles of one core at a number of rows of activations. Kernels state theirs beside their code: counts
of instructions on 64 bytes, with factors which `benchmarks/linear.py` showed on Zen 4; of narrower ones a core is taken
to do as many more a cycle. One layout of weights serves all levels of a library, so all have a say, each a quarter as
much as the one above. The fewest rows count twice: what decodes runs a layer with one row more often than with many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, log

from nomul.backends.group import Group
from nomul.backends.registry import Kernel
from nomul.backends.target import Target
from nomul.ir.dim import Dim, Range, product

USUAL = 128  # rows, where more are allowed
_STEP = 1 / 4  # the say of a level beside that of the next better one
_FEWEST = 2.0  # the say of the fewest rows beside that of others
_READ = 8.0  # bytes of a cycle that come from memory


def with_memory(cycles: float, weight_bytes: float, overlap: float) -> float:
    """Cycles of arithmetic while so many bytes of weights are read. overlap: from 1, where one waits for the other, to
    large numbers, where the longer hides the shorter."""
    waiting: float = cycles**overlap + (weight_bytes / _READ) ** overlap
    return waiting ** (1 / overlap)


def typical_rows(rows: Dim, ranges: Mapping[str, Range]) -> tuple[int, ...]:
    """The fewest rows, one number between, and the usual one."""
    low, high = (max(1, int(min(bound, 2**31))) for bound in rows.bounds(ranges))
    usual = max(low, min(high, USUAL))
    return tuple(dict.fromkeys((low, round((low * usual) ** 0.5), usual)))


def estimate(kernel: Kernel, group: Group, levels: Sequence[Target]) -> dict[int, float]:
    """Cycles by number of rows; empty where the kernel states none. levels: that it serves, best first."""
    if kernel.cost is None or group.anchor is None or not levels:
        return {}
    rows = typical_rows(product(group.anchor.result.shape[:-1]), group.ranges)
    return {
        count: mean([(_STEP**place, kernel.cost(group, at, count)) for place, at in enumerate(levels)])
        for count in rows
    }


def score(times: Mapping[int, float]) -> float:
    """One number for an estimate."""
    least = min(times)
    return mean([(_FEWEST if rows == least else 1.0, time) for rows, time in times.items()])


def mean(weighted: Sequence[tuple[float, float]]) -> float:
    """Geometric, of (weight, number)."""
    return exp(sum(weight * log(number) for weight, number in weighted) / sum(weight for weight, _ in weighted))
