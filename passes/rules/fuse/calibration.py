"""Calibrated attention (Yu et al., "ACT", 2024) from its formula, in whatever way its weights are changed: what stands
between weights and values is tried on weights that tell it from other formulas (`passes/trial.py`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nomul.ir.attention import softmax
from nomul.ir.graph import Node, Value
from nomul.ir.interpreter import type_shape
from nomul.ir.ops.attention_sparse import calibrated, sinks_of
from nomul.passes.graph_tools import number
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.calibration_scores import Scores, same_axes
from nomul.passes.trial import Piece, is_simple, piece_of

MOST = 1 << 24  # weights: of more it would take seconds to try a formula
DRAWS = 3
VISIBLE = 1e-3  # weights below this do not tell by which factor they change
_COMPARED = {"ew.gt": (0, 1), "ew.ge": (0, 1), "ew.lt": (1, 0), "ew.le": (1, 0)}


class CalibrationFormula(NodeRule):
    """softmax whose sinks keep a part of their weights and give the rest to other keys, @ v -> calibrated_attention."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        changed, v = node.args
        assert changed is not None and v is not None
        piece = piece_of(changed, lambda value: _is_weights(value, changed), is_simple)
        if piece is None or len(piece.given) != 1 or changed.type.rank not in (3, 4):
            return None
        if v.shape[:-2] != changed.shape[:-2]:
            return None
        thresholds = set(_thresholds(piece))
        if not thresholds or not any(each.op.startswith("reduce.") for each in piece.nodes):
            return None
        if len(thresholds) > 1:
            raise NoMatch(f"mean weights are compared with several numbers: {sorted(thresholds)}", changed)
        scores = Scores.of(g, piece.given[0], changed.shape)
        trial = _Trial(piece, scores.causal, thresholds.pop())
        beta, heads = trial.found(g)
        q, k, values = scores.operands(g, v)
        rules = {"threshold": trial.threshold, "beta": beta, "heads": heads}
        y = g.nn.calibrated_attention(q, k, values, scale=scores.scale, causal=scores.causal, **rules)
        return scores.back(g, y, node.result.shape)


def _is_weights(value: Value, changed: Value) -> bool:
    node, size = value.producer, changed.shape[-1]
    if node is None or node.op != "nn.softmax" or node.attrs["axis"] != value.type.rank - 1:
        return False
    return value.shape[-2:] == (size, size) == changed.shape[-2:] and same_axes(value.shape, changed.shape)


def _thresholds(piece: Piece) -> Iterator[float]:
    """Positive numbers that floats are larger than."""
    for node in piece.nodes:
        if node.op in _COMPARED:
            place, other = _COMPARED[node.op]
            tested, given = node.args[place], number(node.args[other])
            if tested is not None and tested.dtype.is_float and given:
                yield given


@dataclass(frozen=True)
class _Trial:
    piece: Piece
    causal: bool
    threshold: float

    def found(self, g: Rewriter) -> tuple[float, tuple[int, ...]]:
        """(beta, heads) with which the op changes weights as the piece does. Raises NoMatch."""
        samples = list(self._samples(g))
        if not samples:
            raise NoMatch(f"more than {MOST} weights, or fewer than 3 tokens, are not tried", self.piece.root)
        changed = np.any([(sample.weights != sample.result).any((0, 2, 3)) for sample in samples], axis=0)
        heads = () if changed.all() else tuple(int(head) for head in np.flatnonzero(changed))
        beta = self._beta(samples, changed)
        for sample in samples:
            expected = calibrated(sample.weights, sample.seen, self.threshold, beta, heads)
            if not _near(sample.result, expected).all():
                raise NoMatch(self._difference(sample, changed, beta), self.piece.root)
        return beta, heads

    def _samples(self, g: Rewriter) -> Iterator[_Sample]:
        given = self.piece.given[0]
        draw = np.random.default_rng(0)
        for dims in self.piece.sizes(g.module.dims, MOST):
            shape = type_shape(given.type, dims)
            if np.prod(shape) > MOST or shape[-1] < 3:
                continue
            seen = np.tri(shape[-1], dtype=bool) if self.causal else np.ones(shape[-2:], np.bool_)
            for _ in range(DRAWS):
                weights = _drawn(draw, shape, seen).astype(given.dtype.numpy)
                result = self.piece.compute({given: weights}, dims)
                full = (*(*result.shape[:-2], 1)[:2], *shape[-2:])
                yield _Sample(weights.reshape(full), result.reshape(full), seen)

    def _beta(self, samples: list[_Sample], changed: np.ndarray) -> float:
        """What sinks keep of their weights, where all keep as much."""
        places = [_calmed(sample, self.threshold, changed) for sample in samples]
        shares = np.concatenate([x.result[at] / x.weights[at] for x, at in zip(samples, places, strict=True)])
        if not shares.size:
            raise NoMatch("no weights change where keys are sinks", self.piece.root)
        return float(f"{np.nanmedian(shares):.6g}")

    def _difference(self, sample: _Sample, changed: np.ndarray, beta: float) -> str:
        """How the piece differs from calibration."""
        weights, result = sample.weights, sample.result
        if not _near(result[:, :, 0], weights[:, :, 0]).all():
            return "the weights of the first query change"
        calm = _near(result, beta * weights) & (weights > VISIBLE)
        lost, large = calm.any(2, keepdims=True), sample.means > self.threshold
        if (lost & ~large).any():
            return f"keys lose weight whose mean over queries that see them is not above {self.threshold:g}"
        if (lost & ~sample.sinks(self.threshold)).any():
            return "the first sink loses weight, too"
        if (_calmed(sample, self.threshold, changed) & ~calm).any():
            return f"some sinks besides the first keep another part of their weight than {beta:g}"
        return "what sinks lose does not go to the other keys in proportion to their weights"


@dataclass(frozen=True)
class _Sample:
    """weights, result: [B, H, S, S], before and after. seen [S, S]: which weights are not hidden."""

    weights: np.ndarray
    result: np.ndarray
    seen: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """[B, H, 1, S]: of each key over the queries that see it."""
        found: np.ndarray = self.weights.sum(2, keepdims=True) / self.seen.sum(0)
        return found

    def sinks(self, threshold: float) -> np.ndarray:
        return sinks_of(self.weights, self.seen, threshold)


def _near(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where weights are the same but for rounding."""
    return np.isclose(one, other, rtol=1e-4, atol=1e-6)


def _calmed(sample: _Sample, threshold: float, changed: np.ndarray) -> np.ndarray:
    """Where the op would take weight away: sinks that queries after the first see, in heads that change."""
    sinks = sample.sinks(threshold) & changed[:, None, None]
    found: np.ndarray = sinks & (sample.weights > VISIBLE) & (np.arange(sample.seen.shape[0]) > 0)[:, None]
    return found


def _drawn(draw: np.random.Generator, shape: tuple[int, ...], seen: np.ndarray) -> np.ndarray:
    """Weights with a few large columns, and larger ones among what few queries see."""
    tokens = shape[-1]
    columns = np.where(draw.random((*shape[:-2], 1, tokens)) < min(0.5, 4 / tokens), np.log(tokens), 0.0)
    scores = draw.standard_normal(shape, np.float32) + columns * draw.uniform(0.5, 1.5, columns.shape)
    return softmax(np.where(seen, scores, -np.inf))
