"""Kolmogorov-Arnold attention (Maity et al., 2025) from its formula, in whatever order and layout it is multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.contraction import Factor, arranged, restored
from nomul.passes.contraction_axes import Label, Misfit, aligned, side_by_side
from nomul.passes.contraction_sum import SumReader, Term
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

MOST_MULTIPLES = 16  # of the scores; their cosines and their sines are a term each
MOST_NODES = 64 * MOST_MULTIPLES  # of the formula
CLOSE = 1e-4
_WAVES = ("ew.cos", "ew.sin")


class KolmogorovArnoldFormula(NodeRule):
    """projection (sum of a[m] cos(m scores) + b[m] sin(m scores)) v -> kolmogorov_arnold_attention."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if not _is_of_waves(node):
            return None
        terms = SumReader(left=MOST_NODES, most=2 * MOST_MULTIPLES).read(node.result)
        waves = [_Wave.of(term) for term in terms]
        found = [wave for wave in waves if wave is not None]
        if not found or len(found) < len(terms):
            return None
        if len({wave.op for wave in found}) == 1:
            raise NoMatch("only one of cosines and sines of the scores is summed", node.result)
        cosine, sine = (_coefficients(g, [wave for wave in found if wave.op == op], found) for op in _WAVES)
        first = found[0]
        if any(not wave.is_beside(first) for wave in found):
            raise NoMatch("cosines and sines are not of the same scores, or mix other values", node.result)
        if first.term.scale != 1:
            raise NoMatch(f"the result is scaled by {first.term.scale:g}", node.result)
        heads, lead = first.heads, first.lead
        q = arranged(g, first.q, first.q.value, lead, (first.s, heads, first.d))
        k = arranged(g, first.k, first.k.value, lead, (first.place, heads, first.d))
        v = arranged(g, first.v, first.v.value, lead, (first.t, heads, first.e))
        projection = first.by_head(g, first.projection, (first.t, first.unit))
        scale = min(wave.scale for wave in found)
        y = g.nn.kolmogorov_arnold_attention(q, k, v, cosine, sine, projection, scale=scale)
        return restored(g, y, [*lead, first.s, heads, first.e], first.term, node.result.shape)


def _is_of_waves(node: Node) -> bool:
    """Whether cosines or sines are among what it multiplies and sums: reading that is long."""
    steps, seen, left = SumReader().steps, {node}, [node]
    while left and len(seen) < MOST_NODES:
        makers = {arg.producer for arg in left.pop().args if arg is not None and arg.producer is not None} - seen
        if any(maker.op in _WAVES for maker in makers):
            return True
        seen |= makers
        left += [maker for maker in makers if maker.op in steps]
    return False


@dataclass(frozen=True)
class _Angle:
    """scale * q k. multiple: the label of 1, 2, ... that it is multiplied with too, if it is."""

    q: Factor
    k: Factor
    multiple: Label | None
    scale: float


@dataclass(frozen=True)
class _Wave:
    """op of multiples of scale * q [lead, heads, s, d] k [lead, heads, place, d], times coefficients [heads, unit,
    place, multiple], projection [heads, t, unit] and v [lead, heads, t, e], their axes in any order."""

    op: str
    term: Term
    coefficients: Factor
    projection: Factor
    q: Factor
    k: Factor
    v: Factor
    rows: frozenset[Label]
    s: Label
    place: Label
    d: Label
    unit: Label
    t: Label
    e: Label
    multiple: Label | None
    scale: float

    @staticmethod
    def of(term: Term) -> _Wave | None:
        """What a term is, or None."""
        waves = [factor for factor in term.factors if produced_by(factor.value, *_WAVES)]
        if len(waves) != 1 or len(term.factors) != 4 or term.counts:
            return None
        (wave,) = waves
        rest = [factor for factor in term.factors if factor is not wave]
        roles = ((angle, three) for angle in _angles(wave) for three in permutations(rest, 3))
        return next((found for angle, three in roles if (found := _Wave._named(term, wave, angle, *three))), None)

    @staticmethod
    def _named(
        term: Term, wave: Factor, angle: _Angle, v: Factor, projection: Factor, coefficients: Factor
    ) -> _Wave | None:
        """With these factors in their roles, where their labels fit."""
        q, k, multiple = angle.q, angle.k, angle.multiple
        free, seen = set(term.free), wave.labels - {multiple}
        parts = [
            q.labels & seen & free - k.labels,
            seen - free,
            q.labels & k.labels - wave.labels,
            projection.labels & coefficients.labels - wave.labels,
            v.labels & projection.labels - wave.labels,
            free - wave.labels,
        ]
        if wave.value.producer is None or any(len(part) != 1 for part in parts):
            return None
        s, place, d, unit, t, e = (next(iter(part)) for part in parts)
        found = _Wave(
            wave.value.producer.op, term, coefficients, projection, q, k, v, rows=seen - {s, place}, s=s, place=place,
            d=d, unit=unit, t=t, e=e, multiple=multiple, scale=angle.scale,
        )  # fmt: skip
        return found if found._fits() else None

    def _fits(self) -> bool:
        by_rows = [(self.q, {self.s, self.d}), (self.k, {self.place, self.d}), (self.v, {self.t, self.e})]
        learned: list[tuple[Factor, set[Label | None]]] = [
            (self.coefficients, {self.unit, self.place, self.multiple}),
            (self.projection, {self.t, self.unit}),
        ]
        heads = {self.heads} if self.heads else set()
        return (
            set(self.term.free) == self.rows | {self.s, self.e}
            and all(factor.labels == self.rows | labels for factor, labels in by_rows)
            and all(factor.labels | heads == (labels - {None}) | heads for factor, labels in learned)
        )

    @property
    def heads(self) -> Label | None:
        """The label of what is learned for each head, or None."""
        learned = (self.coefficients.labels | self.projection.labels) & self.rows
        return min(learned, key=lambda label: self.term.free.index(label), default=None)

    @property
    def lead(self) -> list[Label]:
        return [label for label in self.term.free if label in self.rows and label is not self.heads]

    def is_beside(self, other: _Wave) -> bool:
        """Whether it differs in its multiple and coefficients only."""
        values = [(wave.q.value, wave.k.value, wave.v.value, wave.projection.value) for wave in (self, other)]
        same = all(one is twin for one, twin in zip(*values, strict=True))
        labels = [(wave.s, wave.unit, wave.t, wave.e, wave.rows, wave.heads) for wave in (self, other)]
        flat = [[label for label in wave.k.flat if label not in (wave.place, wave.d)] for wave in (self, other)]
        return same and labels[0] == labels[1] and flat[0] == flat[1] and self.term.scale == other.term.scale

    def by_head(self, g: Rewriter, factor: Factor, rest: tuple[Label, ...]) -> Value:
        """[heads, rest...] of what is learned; heads that have it in common repeat it."""
        own = [self.heads] if self.heads in factor.labels and self.heads is not None else []
        y = arranged(g, factor, factor.value, own, rest)
        size = self.heads.size if self.heads else ONE
        return y if y.shape[0] == size else g.view.expand(y, shape=(size, *y.shape[1:]))


def _angles(wave: Factor) -> list[_Angle]:
    """What a cosine or sine is of: either factor of the product may be called queries."""
    node = wave.value.producer
    terms = SumReader().read(node.args[0]) if node is not None else []
    if len(terms) != 1 or terms[0].counts:
        return []
    (term,) = terms
    try:
        if any(len(one) != len(other) for one, other in side_by_side(wave.axes, term.axes)):
            return []
        aligned(wave.axes, term.axes)
    except Misfit:
        return []
    summed = term.labels - set(term.free)
    products = [factor for factor in term.factors if factor.labels & summed]
    counts = [factor for factor in term.factors if not factor.labels & summed]
    labels = [label for factor in counts for label in factor.labels]
    if len(products) != 2 or len(labels) != len(counts) or len(counts) > 1:
        return []
    if any(not _counts_from_one(factor.value) for factor in counts):
        return []
    multiple = labels[0] if labels else None
    return [_Angle(one, other, multiple, term.scale) for one, other in permutations(products)]


def _counts_from_one(value: Value) -> bool:
    """Whether a value is 1, 2, ... along its only axis of more than one place."""
    array = known_array(value)
    if array is not None:
        return np.array_equal(array.reshape(-1), np.arange(1, array.size + 1))
    cast = produced_by(value, "ew.cast")
    iota = produced_by(cast.args[0] if cast else value, "make.iota")
    return iota is not None and iota.attrs["start"] == 1 and iota.attrs["step"] == 1


def _coefficients(g: Rewriter, waves: list[_Wave], all_waves: list[_Wave]) -> Value:
    """[heads, unit, place, multiples] of cosines or of sines. Raises NoMatch."""
    if any(wave.multiple is not None for wave in waves):
        wave, multiple = waves[0], waves[0].multiple
        if len(waves) > 1 or multiple is None or wave.scale != all_waves[0].scale:
            raise NoMatch("multiples of the scores are summed in more than one way")
        return wave.by_head(g, wave.coefficients, (wave.unit, wave.place, multiple))
    unit = min(wave.scale for wave in all_waves)
    waves = sorted(waves, key=lambda wave: wave.scale)
    multiples = [wave.scale / unit for wave in waves] if unit > 0 else []
    if len(multiples) * 2 != len(all_waves) or not np.allclose(multiples, np.arange(1, len(waves) + 1), rtol=CLOSE):
        told = ", ".join(f"{multiple:.4g}" for multiple in multiples)
        raise NoMatch(f"the multiples of the scores are {told}, not 1, 2, ... as many for cosines and sines")
    parts = [wave.by_head(g, wave.coefficients, (wave.unit, wave.place)) for wave in waves]
    return g.view.concat(*(g.view.reshape(part, shape=(*part.shape, ONE)) for part in parts), axis=3)
