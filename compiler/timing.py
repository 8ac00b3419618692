"""Latency of callables that run in turns, so that a busy neighbour disturbs all contenders alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Job = Callable[[], object]
BLOCK = 5  # timed runs of one contender at a stretch
PAUSE = 0.03  # seconds before each stretch: until then worker threads of the contender before may still spin


@dataclass(frozen=True)
class Latency:
    """Milliseconds. low: the fastest run; p50, p90: quantiles over `runs` runs."""

    low: float
    p50: float
    p90: float
    runs: int


def measure(jobs: Mapping[str, Job], seconds: float = 1.0, least: int = 10) -> dict[str, Latency]:
    """Runs the jobs in turns for about `seconds` in all, and each at least `least` times.

    A turn is a pause, one run that is not counted, and BLOCK runs that are."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        job()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, spent.values())) < least:
        for name, job in jobs.items():
            time.sleep(PAUSE)
            job()
            spent[name] += [_milliseconds(job) for _ in range(BLOCK)]
    return {name: _latency(times) for name, times in spent.items()}


def _milliseconds(job: Job) -> float:
    start = time.perf_counter()
    job()
    return (time.perf_counter() - start) * 1e3


def _latency(times: list[float]) -> Latency:
    ordered = sorted(times)
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return Latency(ordered[0], statistics.median(ordered), p90, len(ordered))
