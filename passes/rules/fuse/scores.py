"""Scores of attention as sums of terms: products, what is added to them, what hides some, what limits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from nomul.ir.dim import product
from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, fitted
from nomul.passes.contraction_axes import Label, Misfit, aligned, parted, refined, side_by_side
from nomul.passes.contraction_sum import Sum, SumReader, Term
from nomul.passes.graph_tools import is_elementwise, number, produced_by
from nomul.passes.rule import NoMatch, Rewriter
from nomul.passes.rules.fuse.attention import NEGLIGIBLE
from nomul.passes.rules.fuse.causal import HIDDEN
from nomul.passes.rules.fuse.linear_attention import behind_views

Labels = Sequence[Label]


@dataclass
class ScoreReader(SumReader):
    """Reads scores: what hides some is a further term, a bool in `hidden` with what is put in the place of scores where
    it is false; `limited` the scale inside a tanh. Products by weights stand for themselves: they make queries or
    keys."""

    g: Rewriter
    hidden: dict[Value, Constant] = field(default_factory=dict)
    limited: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps["ew.where"] = self._where
        self.steps["ew.tanh"] = self._tanh

    def _matmul(self, node: Node) -> Sum | None:
        return None if any(isinstance(arg, Weight) for arg in node.args) else super()._matmul(node)

    def _tanh(self, node: Node) -> Sum | None:
        found = self.read(node.args[0])
        if len(found) != 1 or not found[0].is_sum or found[0].counts or self.limited is not None:
            return None
        self.limited = found[0].scale
        return [replace(found[0], scale=1.0)]

    def _where(self, node: Node) -> Sum | None:
        condition, x, y = node.args
        for scores, low, is_inverted in ((x, y, False), (y, x, True)):
            given = number(low)
            if given is None or given > HIDDEN or condition is None or not isinstance(low, Constant):
                continue
            found, seen = self.read(scores), contraction(condition, self.g.module.dims)
            if not any(term.is_sum for term in found) or len(seen.factors) != 1 or seen.is_made:
                return None
            (shown,) = seen.factors
            visible = self.g.ew.not_(shown.value) if is_inverted else shown.value
            # Where a row has another score, these weigh nothing; where it has none, all weigh the same. So do lower
            # ones, which do not change when a score is added to them.
            self.hidden[visible] = Constant(min(given, NEGLIGIBLE), low.dtype) if low.dtype is DType.F32 else low
            found, mask = fitted(found, [Term(seen.axes, (Factor(visible, shown.axes),))])
            axes = aligned(found[0].axes, mask[0].axes)
            return [Term(axes, term.factors, term.scale, counts=term.counts) for term in (*found, *mask)]
        return None


def softmax_factors(whole: Contraction) -> Sequence[tuple[int, Node]]:
    """The factors of a product of two that are a softmax, by place."""
    if len(whole.factors) != 2 or whole.divisors or whole.order or whole.added or whole.scale != 1:
        return []
    found = [(place, produced_by(factor.value, "nn.softmax")) for place, factor in enumerate(whole.factors)]
    return [(place, node) for place, node in found if node is not None]


def scores_of(g: Rewriter, softmax: Node, products: int) -> tuple[ScoreReader, Sum] | None:
    """What the scores are in front of a softmax, where they have that many products of two values each."""
    reader = ScoreReader(g)
    terms = reader.read(softmax.args[0])
    found = [term for term in terms if term.is_sum]
    if len(found) != products or any(len(term.factors) != 2 or term.counts for term in found):
        return None
    return reader, terms


def joined(whole: Contraction, position: int, terms: Sum) -> tuple[Contraction, Sum]:
    """Both with the same labels: the terms make the weights that are the factor at that position. Raises Misfit."""
    of_whole, of_terms = refined(side_by_side(whole.factors[position].axes, terms[0].axes))
    whole = whole.apart(of_whole, parted(whole.axes, of_whole))
    terms = [term.apart(of_terms, parted(term.axes, of_terms)) for term in terms]
    if any(len(one) != len(other) for one, other in side_by_side(whole.factors[position].axes, terms[0].axes)):
        raise Misfit
    aligned(whole.factors[position].axes, terms[0].axes)
    return whole, terms


def grouped(g: Rewriter, factor: Factor, groups: Sequence[Labels]) -> Value:
    """A factor with an axis for each group of labels, of the product of their sizes. It has all of these."""
    first, *rest = groups
    value = arranged(g, factor, factor.value, first, [label for group in rest for label in group])
    return g.view.reshape(value, shape=tuple(product([label.size for label in group]) for group in groups))


def masks_of(g: Rewriter, terms: Sum, hidden: dict[Value, Constant], groups: Sequence[Labels]) -> Value | None:
    """What the terms add or hide as one mask, its axes the groups of labels or 1: bools, or what is added; None for no
    terms. Raises NoMatch."""
    added: Value | None = None
    seen: dict[float, Value] = {}  # what each number hides where it is false
    for term in terms:
        literal = hidden.get(term.factors[0].value) if len(term.factors) == 1 else None
        low = number(literal)
        if term.counts or not term.factors or (low is not None and low * term.scale > HIDDEN):
            raise NoMatch("what is added to the scores is no mask")
        parts = [_shown(g, factor, groups) for factor in term.factors]
        if low is not None:
            seen[low] = g.ew.and_(seen[low], parts[0]) if low in seen else parts[0]
            continue
        mask = parts[0]
        for part in parts[1:]:
            mask = g.ew.mul(mask, part)
        mask = mask if term.scale == 1 else g.ew.mul(mask, term.scale)
        added = mask if added is None else g.ew.add(added, mask)
    return _combined(g, added, seen, next((literal.dtype for literal in hidden.values()), DType.F32))


def _combined(g: Rewriter, added: Value | None, seen: dict[float, Value], dtype: DType) -> Value | None:
    if len([low for low in seen if low != -inf]) > 1:
        raise NoMatch(f"scores are hidden by {' and by '.join(f'{low:g}' for low in seen)}")
    if added is None and set(seen) == {-inf}:
        return seen[-inf]
    for low in sorted(seen, reverse=True):
        shown = Constant(0.0, dtype) if added is None else added
        added = g.ew.where(seen[low], shown, Constant(low, shown.dtype))
    return added


def _shown(g: Rewriter, factor: Factor, groups: Sequence[Labels]) -> Value:
    """A mask with an axis for each group of labels, of 1 where it has none of them. What it is computed of is shown so
    instead, down to counters of places, where rules for masks by places look for them."""
    node = factor.value.producer
    if node is not None and is_elementwise(node):
        args = [
            arg if arg is None or isinstance(arg, Constant) else _shown(g, behind_views(g, factor, arg), groups)
            for arg in node.args
        ]
        return g.op(node.op, *args, **node.attrs)
    own = [label for group in groups for label in group if label in factor.labels]
    if not factor.labels <= set(own):
        raise NoMatch("the mask has axes that the scores lack", factor.value)
    value = factor.value
    if [label for label in factor.flat if label is not None] != own:
        value = arranged(g, factor, value, (), own)
    present = [[label for label in group if label in own] for group in groups]
    if any(part and len(part) < len(group) for part, group in zip(present, groups, strict=True)):
        value = _repeated(g, value, groups, own)
        present = [list(group) if part else [] for part, group in zip(present, groups, strict=True)]
    return g.view.reshape(value, shape=tuple(product([label.size for label in part]) for part in present))


def _repeated(g: Rewriter, value: Value, groups: Sequence[Labels], own: Labels) -> Value:
    """A value with its own labels, repeated along the others of the groups that have any of them."""
    wide = [label for group in groups if set(group) & set(own) for label in group]
    value = g.view.reshape(value, shape=tuple(label.size if label in own else ONE for label in wide))
    return g.view.expand(value, shape=tuple(label.size for label in wide))
