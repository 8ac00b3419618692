"""Softmax attention from its formula in any layout: heads and tokens on whatever axes, masks in whatever brackets."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import permutations

from nomul.ir.dim import product
from nomul.ir.graph import Node, Value
from nomul.passes.contraction import Contraction, Factor, contraction, restored
from nomul.passes.contraction_axes import Label, Misfit
from nomul.passes.contraction_sum import Sum
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.scores import Labels, ScoreReader, grouped, joined, masks_of, scores_of, softmax_factors


class AttentionFormula(NodeRule):
    """softmax(q k^T * scale + masks) v, its axes in any order -> attention."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        for position, softmax in softmax_factors(whole):
            try:
                found = _Roles.of(g, whole, position, softmax)
            except Misfit:
                continue
            if found is not None:
                _check_users(g, softmax.result)
                return found.built(g, node)
        return None


def _check_users(g: Rewriter, weights: Value) -> None:
    if len({node for node, _ in weights.users}) > 1 or any(value is weights for value in g.func.returns):
        raise NoMatch("the attention weights are used elsewhere", weights)


@dataclass(frozen=True)
class _Roles:
    """reader: of the scores.  masks: what is added to their product.  Labels: batch, heads of keys, heads of queries
    that share one of these, tokens of queries (rows) and keys, elements of keys (size) and values (wide)."""

    whole: Contraction
    reader: ScoreReader
    factors: tuple[Factor, Factor, Factor]
    scale: float
    masks: Sum
    batch: Labels
    heads: Labels
    shared: Labels
    rows: Labels
    keys: Labels
    size: Labels
    wide: Labels

    @staticmethod
    def of(g: Rewriter, whole: Contraction, position: int, softmax: Node) -> _Roles | None:
        """None for another formula. Raises Misfit for axes that do not belong together."""
        found = scores_of(g, softmax, 1)
        if found is None:
            return None
        reader = found[0]
        whole, terms = joined(whole, position, found[1])
        scores = terms.pop(next(place for place, term in enumerate(terms) if term.is_sum))
        if reader.limited is not None and scores.scale <= 0:
            return None
        weights, v = whole.factors[position], whole.factors[1 - position]
        axes = [[label.root() for label in axis] for axis in weights.axes]
        keys = axes[softmax.attrs["axis"]]
        for q, k in permutations(scores.factors):
            summed, lead = scores.labels - set(scores.free), (v.labels & k.labels) - {*keys}
            rows, wide = q.labels - lead - summed, v.labels - lead - {*keys}
            if not _fits((q, k, v), (lead, rows, summed, {*keys}, wide), whole):
                continue
            batch, heads = _heads(_within(axes, lead))
            parts = _within(axes, rows)
            if len(parts) > 2:
                return None
            shared, tokens = _tokens(parts, terms)
            groups = (batch, heads, shared, tokens, keys, _in_order(q, summed), _in_order(v, wide))
            return _Roles(whole, reader, (q, k, v), scores.scale, terms, *groups)
        return None

    def built(self, g: Rewriter, node: Node) -> Value:
        own = [*self.heads, *self.shared]
        batch, heads, rows, keys = self.batch, self.heads, self.rows, self.keys
        q, k, v = self.factors
        operands = (
            grouped(g, q, (batch, rows, own, self.size)),
            grouped(g, k, (batch, keys, heads, self.size)),
            grouped(g, v, (batch, keys, heads, self.wide)),
        )
        mask = masks_of(g, self.masks, self.reader.hidden, (batch, own, rows, keys))
        inner = self.reader.limited
        limits = {"scale": self.scale} if inner is None else {"scale": inner * self.scale, "softcap": self.scale}
        y = g.nn.attention(*operands, mask, **limits)
        return restored(g, y, [*batch, *rows, *own, *self.wide], self.whole, node.result.shape)


def _fits(factors: tuple[Factor, Factor, Factor], parts: tuple[AbstractSet[Label], ...], whole: Contraction) -> bool:
    """Whether queries, keys and values have the labels that make scores [lead, rows, keys] and rows of them."""
    q, k, v = factors
    lead, rows, size, keys, wide = parts
    of_each = ((q, lead | rows | size), (k, lead | keys | size), (v, lead | keys | wide))
    apart = sum(len(part) for part in parts) == len(frozenset().union(*parts))
    free = whole.free
    exact = all(factor.labels == labels for factor, labels in of_each)
    return bool(keys) and apart and exact and set(free) == lead | rows | wide and len(free) == len(set(free))


def _within(axes: list[list[Label]], labels: AbstractSet[Label]) -> list[list[Label]]:
    """Those of the labels that each axis has, where it has any."""
    found = [[label for label in axis if label in labels] for axis in axes]
    return [part for part in found if part]


def _in_order(factor: Factor, labels: frozenset[Label]) -> Labels:
    return [label for label in factor.flat if label is not None and label in labels]


def _heads(parts: list[list[Label]]) -> tuple[Labels, Labels]:
    """(batch, heads): the axes that queries, keys and values have alike, in order; the last one is of heads."""
    is_headed = len(parts) > 1 and product([label.size for label in parts[-1]]).value is not None
    heads = parts[-1] if is_headed else []
    return [label for part in (parts[:-1] if is_headed else parts) for label in part], heads


def _tokens(parts: list[list[Label]], masks: Sum) -> tuple[Labels, Labels]:
    """(heads that share keys, tokens) of the axes that only queries have. Either may be called tokens where there are
    two: a mask by places tells, or the sizes, or the order."""
    masked = frozenset().union(*(term.labels for term in masks))

    def is_fixed(part: list[Label]) -> tuple[bool, bool]:
        return not masked & set(part), product([label.size for label in part]).value is not None

    parts = sorted(parts, key=is_fixed, reverse=True)
    return (parts[0], parts[1]) if len(parts) > 1 else ([], parts[0] if parts else [])
