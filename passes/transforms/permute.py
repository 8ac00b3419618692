"""Puts input channels into an order in which N:M sparsity loses less (channel permutation of NVIDIA's apex)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.nm import Nm
from nomul.ir.encodings.ternary import Ternary
from nomul.ir.graph import Module, Weight
from nomul.passes.base import Report
from nomul.passes.calibrate import Statistics
from nomul.passes.graph_tools import exchange
from nomul.passes.transforms.base import Refused, Request, Transform, by_input
from nomul.passes.transforms.column_scaling import channel_axis
from nomul.passes.transforms.producers import producers

SWEEPS = 40
WORK = 1 << 28  # sums of a sweep; of larger matrices some rows stand for all
LEAST_GAIN = 1e-6  # of what is kept, for another sweep


class Permute(Transform):
    """Input channels take an order in which N:M sparsity loses less.

    Channels are exchanged between the runs of M columns while more of the weights' squares (times the mean squares
    of their inputs, with calibration data) is kept by that. All layers of an input agree on one order, and the rows of
    the layers that make it take that order; where that cannot be, the layers stay."""

    name = "permute"

    def refusal(self, request: Request) -> str | None:
        pattern = _pattern(request.encoding)
        if pattern is None:
            return f"{request.encoding or 'f32'} keeps no fixed number of neighbouring weights"
        if prod(int(size) for size in request.weight.shape[2:]) != 1:
            return "the columns of a channel are several taps of a convolution"
        return None

    def apply(self, module: Module, requests: Sequence[Request], report: Report) -> dict[str, str]:
        seen = self.statistics(module, requests)
        refused: dict[str, str] = {}
        for group in by_input(requests):
            try:
                _permute(module, group, seen, report)
            except Refused as reason:
                refused |= {request.weight.name: str(reason) for request in group}
        return refused


def _pattern(encoding: Encoding | None) -> tuple[int, int] | None:
    """(N, M) of an encoding that keeps N of each M weights."""
    if isinstance(encoding, Nm):
        return encoding.n, encoding.m
    return (3, 4) if isinstance(encoding, Ternary) and encoding.pack_ == "3of4" else None


def _permute(module: Module, group: Sequence[Request], seen: Mapping[str, Statistics], report: Report) -> None:
    """Layers of one input. Raises Refused where its channels cannot be moved."""
    patterns = {_pattern(request.encoding) for request in group}
    pattern = patterns.pop()
    if patterns or pattern is None:
        raise Refused("layers of its input keep other numbers of neighbouring weights")
    consumers = [request.node for request in group]
    found = producers(module.main, group[0].input, (channel_axis(group[0]),), consumers, "order")
    score = np.concatenate([_score(request, seen) for request in group])
    order = best_order(score, *pattern, found.unit)
    if np.array_equal(order, np.arange(len(order))):
        return
    found.absorb(module, lambda rows: rows[order])
    for request in group:
        array = np.ascontiguousarray(request.weight.array()[:, order])
        exchange(module, request.weight, Weight.dense(request.weight.name, array))
    report.fire("permuted")


def _score(request: Request, seen: Mapping[str, Statistics]) -> np.ndarray:
    """[N, K]: what a weight is worth."""
    importance = np.diag(seen[request.weight.name].hessian).clip(min=0) if request.weight.name in seen else 1.0
    return request.matrix**2 * importance


def kept(score: np.ndarray, keep: int, of: int) -> float:
    """The sum of the `keep` largest of each `of` neighbouring scores [N, K]."""
    runs = np.sort(score.reshape(len(score), -1, of), axis=2)
    return float(runs[:, :, of - keep :].sum())


def best_order(score: np.ndarray, keep: int, of: int, unit: int = 0) -> np.ndarray:
    """[K]: which column stands where. In each sweep the gain of exchanging any two columns is worked out, and the best
    exchanges are made between runs that take part in no other; unit: columns stay within runs of so many."""
    columns = score.shape[1]
    stride = max(1, round(len(score) * columns**2 / WORK))
    part, order = score[::stride].astype(np.float32), np.arange(columns)
    before = kept(score, keep, of)
    for _ in range(SWEEPS):
        gain = _gains(part[:, order], keep, of)
        if unit:
            gain[np.subtract.outer(np.arange(columns) // unit, np.arange(columns) // unit) != 0] = 0
        if not _exchange(order, gain, of, LEAST_GAIN * float(part.sum())):
            break
    return order if kept(score[:, order], keep, of) > before else np.arange(columns)


def _gains(score: np.ndarray, keep: int, of: int) -> np.ndarray:
    """[K, K]: how much more is kept where columns i and j change places; 0 within a run."""
    rows, columns = score.shape
    runs = score.reshape(rows, -1, of)
    total = np.sort(runs, axis=2)[:, :, of - keep :].sum(axis=(0, 2))
    base, least = np.empty(columns), np.empty((columns, rows), np.float32)
    for place in range(of):  # without the column at this place: the next best is kept, or whatever comes instead
        others = np.sort(np.delete(runs, place, axis=2), axis=2)
        base[place::of] = others[:, :, of - keep :].sum(axis=(0, 2))
        least[place::of] = others[:, :, of - 1 - keep].T
    values = np.ascontiguousarray(score.T)
    taken = np.stack([np.maximum(least[i], values).sum(axis=1) for i in range(columns)]) + base[:, None]
    old = np.repeat(total, of)
    gain = taken + taken.T - old[:, None] - old[None, :]
    run = np.arange(columns) // of
    gain[run[:, None] == run[None, :]] = 0
    return gain


def _exchange(order: np.ndarray, gain: np.ndarray, of: int, least: float) -> bool:
    """Make the exchanges of most gain, each run of columns in one of them at most. Whether there was any."""
    upper = np.triu(gain)
    first, second = np.nonzero(upper > least)
    used = np.zeros(len(order) // of, bool)
    for at in np.argsort(-upper[first, second], kind="stable"):
        i, j = int(first[at]), int(second[at])
        if not used[i // of] and not used[j // of]:
            used[[i // of, j // of]] = True
            order[[i, j]] = order[[j, i]]
    return bool(used.any())
