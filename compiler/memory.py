"""How much memory a run of an artifact needs, from its facts alone: it may be for another machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nomul.ir.syntax import WeightLine, parse_line

ALIGNMENT = 64  # NM_ALIGNMENT of nomul.h


def scratch_bytes(facts: Mapping[str, Any], dims: Mapping[str, int], threads: int = 1) -> int:
    """What `scratch_size(dims, threads)` of the C interface gives: the only memory that `run` uses."""
    arena = sum(_largest(sizes, dims) for sizes in facts["slots"])
    return max(ALIGNMENT, arena + threads * _largest(facts["thread_scratch"], dims))


def _largest(sizes: Iterable[str], dims: Mapping[str, int]) -> int:
    """The largest size, rounded up to the alignment."""
    largest = max((_evaluate(size, dims) for size in sizes), default=0)
    return -(-largest // ALIGNMENT) * ALIGNMENT


def _evaluate(size: str, dims: Mapping[str, int]) -> int:
    line = parse_line(f"weight @size : u8[{size}]")
    assert isinstance(line, WeightLine)
    return line.type.shape[0].evaluate(dims)
