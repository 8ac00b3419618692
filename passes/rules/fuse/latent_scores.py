"""Attention whose scores are two products, of latent vectors and of rotary keys that all heads share, and whose values
are the latent vectors (DeepSeek-AI, "DeepSeek-V2", 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.ir.graph import Constant, Node, Value
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, paired, restored
from nomul.passes.contraction_axes import Label, Misfit
from nomul.passes.contraction_sum import Term
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.scores import joined, masks_of, scores_of, softmax_factors


class LatentScores(NodeRule):
    """softmax(q latent^T * scale + q_rotary k_rotary^T * scale + mask) latent -> attention with one product and one key
    head."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        for position, softmax in softmax_factors(whole):
            found = _Scores.of(g, whole, position, softmax)
            if found is not None:
                return found.built(g, node)
        return None


@dataclass(frozen=True)
class _Scores:
    """products: (query, key) of each, the latent vectors first.  lead: the labels that keys have besides tokens.
    hidden: as in _ScoreReader."""

    whole: Contraction
    products: list[tuple[Factor, Factor]]
    masks: list[Term]
    hidden: dict[Value, Constant]
    scale: float
    lead: list[Label]
    t: Label
    size: Label

    @staticmethod
    def of(g: Rewriter, whole: Contraction, position: int, softmax: Node) -> _Scores | None:
        """Raises NoMatch for a near miss."""
        read = scores_of(g, softmax, 2)
        if read is None or read[0].limited is not None:
            return None
        try:
            whole, terms = joined(whole, position, read[1])
        except Misfit:
            return None
        weights, values = whole.factors[position], whole.factors[1 - position]
        keys, sizes = weights.axes[softmax.attrs["axis"]], values.labels - weights.labels
        if len(keys) != 1 or len(sizes) != 1 or keys[0].root() in whole.free:
            return None
        t, (size,) = keys[0].root(), sizes
        lead = values.labels - {t, size}
        pairs = [_pair(term, lead, t) for term in terms if term.is_sum]
        found = [pair for pair in pairs if pair is not None]
        if len(found) != 2 or t not in values.labels:
            return None
        found.sort(key=lambda pair: not _is_same(values, pair[1], {*lead, t}))
        if not _is_same(values, found[0][1], {*lead, t}):
            raise NoMatch("the values are not the latent vectors of one of the products", values.value)
        scales = [term.scale for term in terms if term.is_sum]
        if scales[0] != scales[1]:
            raise NoMatch(f"the two products are scaled by {scales[0]:g} and {scales[1]:g}", softmax)
        order = [label for label in values.flat if label in lead and label is not None]
        masks = [term for term in terms if not term.is_sum]
        return _Scores(whole, found, masks, read[0].hidden, scales[0], order, t, size)

    def built(self, g: Rewriter, node: Node) -> Value:
        tokens, heads = self._rows()
        queries, keys = [], []
        for query, key in self.products:
            (size,) = query.labels & key.labels - set(self.lead)
            queries.append(arranged(g, query, query.value, self.lead, (tokens, heads, size)))
            keys.append(arranged(g, key, key.value, self.lead, (self.t, None, size)))
        q, k = (g.view.concat(*parts, axis=3) for parts in (queries, keys))
        groups = [self.lead, *([label] if label else [] for label in (heads, tokens, self.t))]
        mask = masks_of(g, self.masks, self.hidden, groups)
        y = g.nn.attention(q, k, keys[0], mask, scale=self.scale)
        return restored(g, y, [*self.lead, tokens, heads, self.size], self.whole, node.result.shape)

    def _rows(self) -> tuple[Label | None, Label | None]:
        """(tokens, heads) of queries. Either may be called tokens: a mask by places tells, or the sizes."""
        rows = [label for label in self.whole.free if label not in (*self.lead, self.size)]
        masked = frozenset().union(*(term.labels for term in self.masks))

        def rank(label: Label) -> tuple[bool, bool, bool]:
            return (label not in masked, label.size.value is not None, label.size != self.t.size)

        rows.sort(key=rank)
        if len(rows) == 1 and all(rank(rows[0])):
            return None, rows[0]
        return rows[0] if rows else None, rows[1] if len(rows) > 1 else None


def _pair(term: Term, lead: frozenset[Label], t: Label) -> tuple[Factor, Factor] | None:
    """(query, key) of a product whose keys have one vector for each token, or None."""
    rows = set(term.free) - lead - {t}
    for query, key in (term.factors, term.factors[::-1]):
        summed = key.labels - lead - {t}
        if len(summed) == 1 and key.labels == lead | {t} | summed and query.labels == lead | rows | summed:
            return (query, key) if len(rows) < 3 and not summed & rows else None
    return None


def _is_same(one: Factor, other: Factor, kept: set[Label]) -> bool:
    """Whether two factors are one value whose kept labels are the same."""
    pairs = paired(one, other)
    return one.value is other.value and bool(pairs) and all(a is b for a, b in pairs if a in kept or b in kept)
