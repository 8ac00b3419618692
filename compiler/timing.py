"""Latency of callables: interleaved repeats, medians, so that a busy neighbour disturbs all contenders alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Job = Callable[[], object]


@dataclass(frozen=True)
class Latency:
    """Milliseconds. low: the fastest run; p50, p90: quantiles over `runs` runs."""

    low: float
    p50: float
    p90: float
    runs: int


def measure(jobs: Mapping[str, Job], seconds: float = 1.0, least: int = 5) -> dict[str, Latency]:
    """Runs the jobs in turns, at least `least` times each, for about `seconds` in all after one warm-up each."""
    for job in jobs.values():
        job()
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    end = time.perf_counter() + seconds
    turn = 0
    while turn < least or time.perf_counter() < end:
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            spent[name].append((time.perf_counter() - start) * 1e3)
        turn += 1
    return {name: _latency(times) for name, times in spent.items()}


def _latency(times: list[float]) -> Latency:
    ordered = sorted(times)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return Latency(ordered[0], statistics.median(ordered), p90, len(ordered))
