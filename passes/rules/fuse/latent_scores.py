"""Attention whose scores are two products, of latent vectors and of rotary keys that all heads share, and whose values
are the latent vectors (DeepSeek-AI, "DeepSeek-V2", 2024)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf

from nomul.ir.dim import product
from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.ir.shapes import ONE
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, fitted, paired, restored
from nomul.passes.contraction_axes import Label, Misfit, aligned, parted, refined, side_by_side
from nomul.passes.contraction_sum import Sum, SumReader, Term
from nomul.passes.graph_tools import is_elementwise, number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.attention import NEGLIGIBLE
from nomul.passes.rules.fuse.linear_attention import behind_views


class LatentScores(NodeRule):
    """softmax(q latent^T * scale + q_rotary k_rotary^T * scale + mask) latent -> attention with one product and one key
    head."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        if len(whole.factors) != 2 or whole.divisors or whole.order or whole.added or whole.scale != 1:
            return None
        for position, factor in enumerate(whole.factors):
            softmax = produced_by(factor.value, "nn.softmax")
            found = _Scores.of(g, whole, position, softmax) if softmax is not None else None
            if found is not None:
                return found.built(g, node)
        return None


@dataclass
class _ScoreReader(SumReader):
    """Reads scores: what hides some is a further term, a bool in `hidden` with what is put in the place of scores where
    it is false. Products by weights stand for themselves: they make queries or keys."""

    g: Rewriter
    hidden: dict[Value, Constant] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps["ew.where"] = self._where

    def _matmul(self, node: Node) -> Sum | None:
        return None if any(isinstance(arg, Weight) for arg in node.args) else super()._matmul(node)

    def _where(self, node: Node) -> Sum | None:
        condition, x, y = node.args
        for scores, low, is_inverted in ((x, y, False), (y, x, True)):
            given = number(low)
            if given is None or given > NEGLIGIBLE or condition is None or not isinstance(low, Constant):
                continue
            found, seen = self.read(scores), contraction(condition, self.g.module.dims)
            if not any(term.is_sum for term in found) or len(seen.factors) != 1 or seen.is_made:
                return None
            (shown,) = seen.factors
            visible = self.g.ew.not_(shown.value) if is_inverted else shown.value
            self.hidden[visible] = low
            found, mask = fitted(found, [Term(seen.axes, (Factor(visible, shown.axes),))])
            axes = aligned(found[0].axes, mask[0].axes)
            return [Term(axes, term.factors, term.scale, counts=term.counts) for term in (*found, *mask)]
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
        reader = _ScoreReader(g)
        terms = reader.read(softmax.args[0])
        products = [term for term in terms if term.is_sum]
        if len(products) != 2 or any(len(term.factors) != 2 or term.counts for term in terms if term.is_sum):
            return None
        try:
            whole, terms = _joined(whole, position, terms)
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
        return _Scores(whole, found, masks, reader.hidden, scales[0], order, t, size)

    def built(self, g: Rewriter, node: Node) -> Value:
        tokens, heads = self._rows()
        queries, keys = [], []
        for query, key in self.products:
            (size,) = query.labels & key.labels - set(self.lead)
            queries.append(arranged(g, query, query.value, self.lead, (tokens, heads, size)))
            keys.append(arranged(g, key, key.value, self.lead, (self.t, None, size)))
        q, k = (g.view.concat(*parts, axis=3) for parts in (queries, keys))
        mask = _combined(g, [self._mask(g, term, (heads, tokens, self.t)) for term in self.masks], self.hidden)
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

    def _mask(self, g: Rewriter, term: Term, rest: Iterable[Label | None]) -> tuple[Value, Value]:
        """(what a term adds as [B or 1, H or 1, S or 1, T or 1], what it is a view of). Raises NoMatch."""
        if len(term.factors) != 1 or term.scale != 1 or term.counts:
            raise NoMatch("what is added to the scores is no mask")
        (factor,) = term.factors
        return _shown(g, factor, self.lead, tuple(rest)), factor.value


def _shown(g: Rewriter, factor: Factor, lead: list[Label], rest: tuple[Label | None, ...]) -> Value:
    """A mask as [product of lead or 1, rest or 1...]. What it is computed of is shown so instead, down to counters of
    places, where rules for masks by places look for them. Raises NoMatch."""
    node = factor.value.producer
    if node is not None and is_elementwise(node):
        args = [
            arg if arg is None or isinstance(arg, Constant) else _shown(g, behind_views(g, factor, arg), lead, rest)
            for arg in node.args
        ]
        return g.op(node.op, *args, **node.attrs)
    own = [label for label in lead if label in factor.labels]
    if own and own != lead:
        raise NoMatch("the mask differs along some leading axes only", factor.value)
    places = [label if label in factor.labels else None for label in rest]
    kept = [label for label in (*own, *places) if label is not None]
    if [label for label in factor.flat if label is not None] != kept:
        return arranged(g, factor, factor.value, own, places)
    shape = (product([label.size for label in own]), *(label.size if label else ONE for label in places))
    return g.view.reshape(factor.value, shape=shape)


def _joined(whole: Contraction, position: int, terms: Sum) -> tuple[Contraction, Sum]:
    """Both with the same labels: the terms make the weights that are the factor at that position. Raises Misfit."""
    of_whole, of_terms = refined(side_by_side(whole.factors[position].axes, terms[0].axes))
    whole = whole.apart(of_whole, parted(whole.axes, of_whole))
    terms = [term.apart(of_terms, parted(term.axes, of_terms)) for term in terms]
    aligned(whole.factors[position].axes, terms[0].axes)
    return whole, terms


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


def _combined(g: Rewriter, masks: list[tuple[Value, Value]], hidden: dict[Value, Constant]) -> Value | None:
    """All masks as one: bools, or what is added."""
    added, seen = None, None
    for mask, source in masks:
        low = hidden.get(source)
        if low is not None and number(low) == -inf:
            seen = mask if seen is None else g.ew.and_(seen, mask)
            continue
        if low is not None:
            mask = g.ew.where(mask, Constant(0.0, low.dtype), low)
        added = mask if added is None else g.ew.add(added, mask)
    if added is None or seen is None:
        return seen if added is None else added
    return g.ew.where(seen, added, Constant(-inf, added.dtype))
