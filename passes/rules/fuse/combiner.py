"""Combiner (Ren et al., 2021) from its formula: one softmax over near keys and over spans of keys, in whatever way its
parts are multiplied; what is proposed must compute the same of arrays that tell it from other formulas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from nomul.ir.graph import Node, Value
from nomul.ir.views import view_chain
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, place, restored
from nomul.passes.contraction_axes import Label
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.trial import computes_same, is_simple, piece_of
from nomul.passes.view_tools import rebuild_views

PATTERNS = (("fixed", False), ("fixed", True), ("axial", True))
MOST_LEADING = 3  # batch, head and row
_OPS = ("nn.matmul", "nn.softmax", "nn.attention")


class CombinerFormula(NodeRule):
    """softmax(near scores, scores of spans) @ (values, values of spans) -> combiner_attention."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        terms = list(_terms(node.result))
        joint = _joint(terms)
        if joint is None or any(user.op == "ew.add" for user, _ in node.result.users):
            return None
        is_tried = False
        for roles in _proposed(g, terms, joint):
            given = (roles.q.value, roles.k.value, roles.v.value)
            piece = piece_of(node.result, set(given).__contains__, _is_part)
            is_tried |= piece is not None
            for pattern, causal in PATTERNS if piece is not None else ():
                y = roles.built(g, node, pattern, causal)
                if piece is not None and computes_same(piece, y, g.module.dims):
                    return y
                g.discard()
        if is_tried:
            raise NoMatch("near keys and spans of keys share a softmax, but not as in Combiner's patterns", node)
        return None


def _is_part(node: Node) -> bool:
    return node.op in _OPS or is_simple(node)


@dataclass(frozen=True)
class _Term:
    """A product that is added, and the views between it and the sum, the nearest to the sum first."""

    product: Node
    views: tuple[Node, ...]


def _terms(value: Value, behind: tuple[Node, ...] = ()) -> Iterator[_Term | None]:
    """What a sum is the sum of, views between sums looked through; None for what is no product."""
    for arg in value.producer.args if value.producer is not None else ():
        assert arg is not None
        views = (*behind, *view_chain(arg))
        source = _source(arg)
        product = produced_by(source, "nn.matmul")
        if produced_by(source, "ew.add") is not None:
            yield from _terms(source, views)
        else:
            yield _Term(product, views) if product else None


def _source(value: Value) -> Value:
    chain = view_chain(value)
    source = chain[-1].args[0] if chain else value
    assert source is not None
    return source


def _joint(terms: list[_Term | None]) -> Node | None:
    """The softmax of several scores side by side that all terms of a sum are weighed by, or None."""
    found: set[Node | None] = set()
    for term in terms:
        weights = term.product.args[0] if term else None
        found.add(produced_by(_source(weights), "nn.softmax") if weights is not None else None)
    joint = found.pop() if len(found) == 1 else None
    return joint if joint is not None and produced_by(joint.args[0], "view.concat") else None


@dataclass(frozen=True)
class _Roles:
    """q [lead, n, i, d], k [lead, n, j, d], v [lead, n, j, e], axes in any order: near keys are those in row n."""

    q: Factor
    k: Factor
    v: Factor
    scale: float
    order: tuple[tuple[Label | None, ...], ...]  # of the axes of each: batch, row, place in the row, head, size
    whole: Contraction
    result: tuple[Label | None, ...]

    def built(self, g: Rewriter, node: Node, pattern: str, causal: bool) -> Value:
        operands = []
        for factor, (batch, *rest) in zip((self.q, self.k, self.v), self.order, strict=True):
            x = arranged(g, factor, factor.value, [batch] if batch else [], rest)
            one, rows, width, heads, size = x.shape
            operands.append(g.view.reshape(x, shape=(one, rows * width, heads, size)))
        segment = width
        y = g.nn.combiner_attention(*operands, scale=self.scale, segment=segment, pattern=pattern, causal=causal)
        return restored(g, y, self.result, self.whole, node.result.shape)


def _proposed(g: Rewriter, terms: list[_Term | None], joint: Node) -> Iterator[_Roles]:
    """Who may be who: each part of the scores with each product of values, each leading label as the row."""
    concat = produced_by(joint.args[0], "view.concat")
    for score in concat.args if concat else ():
        assert score is not None
        direct = contraction(_plain(score), g.module.dims)
        for term in terms:
            assert term is not None
            whole = contraction(rebuild_views(g, term.views, term.product.result), g.module.dims)
            if len(direct.factors) == len(whole.factors) == 2 and not direct.divisors:
                yield from _roles(direct, whole)


def _roles(direct: Contraction, whole: Contraction) -> Iterator[_Roles]:
    """q, k are the factors of near scores; v is that of near results which is not the weights."""
    for (q, k), (weights, v) in product(*(permutations(found.factors) for found in (direct, whole))):
        own, keys, values = (_Axes.of(*part) for part in ((q, k, direct), (k, q, direct), (v, weights, whole)))
        rows = _Axes.of(weights, v, whole)
        if own is None or keys is None or values is None or rows is None:
            continue
        for lead in permutations(values.lead) if len(values.lead) == len(own.lead) <= MOST_LEADING else ():
            if [label.size for label in lead] != [label.size for label in own.lead]:
                continue
            unscaled, factor = _unscaled(q)
            for row in range(len(lead)):
                near = (own.ordered(own.lead, row), keys.ordered(own.lead, row))
                last = values.swapped.ordered(lead, row)
                result = (*last[:2], rows.alone, *last[3:])
                yield _Roles(unscaled, k, v, direct.scale * factor, (*near, last), whole, result)


@dataclass(frozen=True)
class _Axes:
    """Labels of a factor by what else has them: lead, in the factor's order, the other factor and the result; alone the
    result; shared the other factor."""

    lead: tuple[Label, ...]
    alone: Label
    shared: Label

    @staticmethod
    def of(factor: Factor, other: Factor, whole: Contraction) -> _Axes | None:
        free = frozenset(whole.free)
        lead, alone = factor.labels & other.labels & free, factor.labels - other.labels
        shared = (factor.labels & other.labels) - free
        if len(alone) != 1 or len(shared) != 1 or not alone <= free:
            return None
        return _Axes(tuple(sorted(lead, key=lambda label: place(factor, label))), *alone, *shared)

    @property
    def swapped(self) -> _Axes:
        return _Axes(self.lead, self.shared, self.alone)

    def ordered(self, lead: Sequence[Label], row: int) -> tuple[Label | None, ...]:
        """(batch, row, place in the row, head, size), where the leading label at that place is the row."""
        rest = [label for at, label in enumerate(lead) if at != row]
        batch, heads = (*rest, None, None)[:2]
        return batch, lead[row], self.alone, heads, self.shared


def _unscaled(factor: Factor) -> tuple[Factor, float]:
    """A factor without the number by which it is multiplied, and that."""
    scaled = produced_by(factor.value, "ew.mul")
    given = number(scaled.args[1]) if scaled else None
    if scaled is None or given is None or scaled.args[0] is None:
        return factor, 1.0
    return Factor(scaled.args[0], factor.axes), given


def _plain(scores: Value) -> Value:
    """Scores in front of their mask."""
    while (where := produced_by(scores, "ew.where")) is not None:
        inner = next((arg for arg in where.args[1:] if arg is not None and number(arg) is None), None)
        if inner is None:
            break
        scores = inner
    return scores
