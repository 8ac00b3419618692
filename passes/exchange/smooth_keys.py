"""Factors of the channels of keys that make few bits of keys and queries go far, from calibration data.

Keys that are rounded by rows have steps of the largest channel. Divided by s_c = max|k_c|^a / max|q_c|^(1 - a), with
queries multiplied by it (FireQ's rotary-aware scaling, arXiv 2505.20839), they have finer ones; a is the one of least
error of the scores. The weights that make keys and queries take the factors, so nothing more is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nomul.ir.attention import by_rows, repeated, restored
from nomul.ir.graph import Module, Node
from nomul.passes.exchange.base import Operands
from nomul.passes.exchange.channel_sets import channel_sets
from nomul.passes.rule import NoMatch

STRENGTHS = tuple(step / 10 for step in range(1, 11))
TOKENS = 256  # of a sample whose scores are compared
OCTAVES = 12  # factors stay within 2**-12 .. 2**12
_TINY = 1e-12
Rows = Callable[[np.ndarray], np.ndarray]  # what is kept of rows


def smooth_keys(module: Module, node: Node, samples: Sequence[Operands], rounded: tuple[Rows, Rows]) -> str:
    """Let the weights in front of an nn.attention take factors of its keys' channels; says in words what it did.

    samples: operands of the node.  rounded: what queries and keys become when they are read."""
    try:
        found = channel_sets(module.main, node)
    except NoMatch as reason:
        return f"keys stay without factors: {reason.reason}"
    pairs = [(q, k) for q, k, *_ in samples if q is not None and k is not None]
    if not pairs:
        return "keys stay without factors, which come from calibration data"
    best = best_factors(pairs, found.sets, rounded)
    if best is None:
        return "keys stay without factors: none makes the error of the scores smaller"
    factors, gain = best
    found.absorb(module, factors)
    names = " and ".join(f"@{weight.name}" for weight in found.labels if weight.type.rank > 1 or len(found.labels) == 2)
    return f"factors of keys, in {names}, make the error of scores {gain:.2f} times smaller on calibration data"


def best_factors(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], sets: np.ndarray, rounded: tuple[Rows, Rows]
) -> tuple[np.ndarray, float] | None:
    """Factors [G, D] that are alike within sets, and by how much they divide the error (root mean square) of the scores
    of q [B, S, H, D] and k [B, T, G, D]; None where none does."""
    groups, size = sets.shape
    of_keys = _peaks([k for _, k in pairs], groups, sets)
    of_queries = _peaks([q for q, _ in pairs], groups, sets)
    few = [(_thinned(q), _thinned(k)) for q, k in pairs]
    plain = least = _error(few, np.ones((groups, size)), rounded)
    best = None
    for strength in STRENGTHS:
        factors = _factors(of_keys, of_queries, strength)
        error = _error(few, factors, rounded)
        if error < least:
            least, best = error, factors
    return None if best is None else (best, float(np.sqrt(plain / max(least, np.finfo(float).tiny))))


def _peaks(arrays: Sequence[np.ndarray], groups: int, sets: np.ndarray) -> np.ndarray:
    """[G, D]: largest magnitudes, of a whole set each. Heads [B, T, H, D] that read one head of keys are together."""
    size = sets.shape[1]
    own = np.max([np.abs(x.reshape(-1, groups, x.shape[2] // groups, size)).max(axis=(0, 2)) for x in arrays], axis=0)
    largest = np.zeros(sets.size)
    np.maximum.at(largest, sets.ravel(), own.ravel())
    return largest[sets].astype(np.float64)


def _factors(of_keys: np.ndarray, of_queries: np.ndarray, strength: float) -> np.ndarray:
    """Relative to the geometric mean of the head; 1 where a channel has no keys or no queries."""
    alive = (of_keys > _TINY) & (of_queries > _TINY)
    keys, queries = (np.where(alive, x, 1.0) for x in (of_keys, of_queries))
    ratio = np.where(alive, np.log2(keys) * strength - np.log2(queries) * (1 - strength), 0.0)
    mean = ratio.sum(axis=1, keepdims=True) / np.maximum(alive.sum(axis=1, keepdims=True), 1)
    factors: np.ndarray = 2.0 ** np.where(alive, ratio - mean, 0.0).clip(-OCTAVES, OCTAVES)
    return factors


def _thinned(x: np.ndarray) -> np.ndarray:
    return x[:, :: max(1, -(-x.shape[1] // TOKENS))].astype(np.float32)


def _error(pairs: Sequence[tuple[np.ndarray, np.ndarray]], factors: np.ndarray, rounded: tuple[Rows, Rows]) -> float:
    """Mean square of what rounding changes in the scores."""
    total = 0.0
    for q, k in pairs:
        heads = q.shape[2]
        of_query = np.repeat(factors, heads // len(factors), axis=0)
        read = _scores(rounded[0]((q * of_query).astype(q.dtype)), rounded[1]((k / factors).astype(k.dtype)))
        total += float(np.square(read - _scores(q, k), dtype=np.float64).mean())
    return total


def _scores(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """[B, H, S, T]"""
    result: np.ndarray = q.transpose(0, 2, 1, 3) @ repeated(k, q.shape[2]).transpose(0, 2, 3, 1)
    return result


def rows_of(levels: int | None) -> Rows:
    """Rows as integers up to `levels` times a scale each keep them; None: as they are."""
    return (lambda x: restored(*by_rows(x, levels))) if levels else (lambda x: x)
