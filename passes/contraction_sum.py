"""A value as a sum of contractions: what is multiplied with a sum is multiplied with each of its terms, so the same
formula has the same terms wherever its brackets are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from nomul.ir.dim import Dim, product
from nomul.ir.graph import Node, Value
from nomul.passes.contraction import Contraction, Reader, fitted, fitted_product, leaf, multiplied
from nomul.passes.contraction_axes import Axes, Label, aligned, expanded, merged, reduced, regrouped
from nomul.passes.size_scale import Powers, SizeScale, inverse_powers, multiplied_powers, size_scale

MOST_TERMS = 8  # longer sums are none that a rule looks for


@dataclass(frozen=True)
class Term(Contraction):
    """A contraction without order, divisors or added number, divided by these powers of counts that are not known
    yet."""

    counts: Powers = ()

    def share(self, count: Dim, power: int) -> float | None:
        """The number that it is scaled by, times count ** power; None where that still depends on a count."""
        if count.value is not None:
            return None if self.counts else self.scale * count.value**power
        if any(times.denominator != 1 or times < 0 for _, times in self.counts):
            return None
        divisor = product([size for size, times in self.counts for _ in range(int(times))])
        return self.scale if divisor == product([count] * power) else None


Sum = list[Term]  # all over the same axes, the labels of a term's factors among them or summed


def terms_of(value: Value) -> Sum:
    """The terms of a value, at the least itself."""
    return SumReader().read(value)


@dataclass
class SumReader(Reader[Sum]):
    """most: terms of a sum; a longer one stands for itself."""

    most: int = field(default=MOST_TERMS, kw_only=True)

    def __post_init__(self) -> None:
        self.steps = {
            "view.transpose": self._transpose,
            "view.reshape": self._reshape,
            "view.expand": self._expand,
            "nn.matmul": self._matmul,
            "ew.mul": self._multiply,
            "ew.div": self._divide,
            "ew.neg": lambda node: _times(self.read(node.args[0]), SizeScale(-1.0)),
            "ew.add": lambda node: self._add(node, 1.0),
            "ew.sub": lambda node: self._add(node, -1.0),
            "reduce.sum": lambda node: self._reduce(node, mean=False),
            "reduce.mean": lambda node: self._reduce(node, mean=True),
        }

    def read(self, value: Value | None) -> Sum:
        assert value is not None
        given = size_scale(value)
        if given is not None:
            self.left -= 1
            return [Term((), (), given.number, counts=inverse_powers(given.powers))]
        found = super().read(value)
        return found if len(found) <= self.most else self.alone(value)

    def alone(self, value: Value) -> Sum:
        found = leaf(value)
        return [Term(found.axes, found.factors)]

    # -- views ---------------------------------------------------------------------------------------------------
    def _transpose(self, node: Node) -> Sum:
        found = self.read(node.args[0])
        return _over(found, tuple(found[0].axes[axis] for axis in node.attrs["perm"]))

    def _reshape(self, node: Node) -> Sum:
        found = self.read(node.args[0])
        axes, parts = regrouped(found[0].free, node.result.shape)
        return [term.apart(parts, axes) for term in found]

    def _expand(self, node: Node) -> Sum:
        found = self.read(node.args[0])
        return _over(found, expanded(found[0].axes, node.result.shape))

    # -- products ------------------------------------------------------------------------------------------------
    def _matmul(self, node: Node) -> Sum | None:
        left, right = (self.read(arg) for arg in node.args)
        if min(len(left[0].axes), len(right[0].axes)) < 2:
            return None
        left, right = fitted_product(left, right)
        one, other = left[0].axes, right[0].axes
        inner = merged(one[-1], other[-2])
        axes = (*aligned(one[:-2], other[:-2]), one[-2], other[-1])
        found = [_product(first, second, axes) for first in left for second in right]
        roots = {label.root() for label in inner}
        return found if all(roots <= term.labels for term in found) else None

    def _multiply(self, node: Node) -> Sum | None:
        for one, other in (node.args, node.args[::-1]):
            factor = size_scale(other)
            if factor is not None:
                return _times(self.read(one), factor)
        left, right = fitted(*(self.read(arg) for arg in node.args))
        axes = aligned(left[0].axes, right[0].axes)
        pairs = [(first, second) for first in left for second in right]
        if any(_is_elementwise(*pair) for pair in pairs):
            return None
        return [_product(first, second, axes) for first, second in pairs]

    def _divide(self, node: Node) -> Sum | None:
        divisor = size_scale(node.args[1])
        factor = divisor.raised(-1) if divisor is not None else None
        return _times(self.read(node.args[0]), factor) if factor is not None else None

    # -- sums ----------------------------------------------------------------------------------------------------
    def _add(self, node: Node, sign: float) -> Sum | None:
        left, right = (self.read(arg) for arg in node.args)
        if not any(term.is_sum for term in (*left, *right)):
            return None
        left, right = fitted(left, right)
        axes = aligned(left[0].axes, right[0].axes)
        return _over(left, axes) + _times(_over(right, axes), SizeScale(sign))

    def _reduce(self, node: Node, mean: bool) -> Sum | None:
        found = self.read(node.args[0])
        labels, axes = reduced(found[0].axes, node)
        summed = {label.root() for label in labels}
        if not mean and not all(summed <= term.labels for term in found):
            return None
        return [_mean(term, summed & term.labels) if mean else term for term in _over(found, axes)]


def _over(terms: Sum, axes: Axes) -> Sum:
    return [replace(term, axes=axes) for term in terms]


def _times(terms: Sum, factor: SizeScale) -> Sum:
    divided = inverse_powers(factor.powers)
    counts = [multiplied_powers(term.counts, divided) for term in terms]
    return [
        replace(term, scale=term.scale * factor.number, counts=powers)
        for term, powers in zip(terms, counts, strict=True)
    ]


def _product(left: Term, right: Term, axes: Axes) -> Term:
    found = multiplied(left, right, axes)
    return Term(axes, found.factors, found.scale, counts=multiplied_powers(left.counts, right.counts))


def _is_elementwise(left: Term, right: Term) -> bool:
    """Whether one of two values is only scaled by the other, element by element."""
    inside = left.labels <= right.labels or right.labels <= left.labels
    return bool(left.factors and right.factors) and inside and not (left.is_sum or right.is_sum)


def _mean(term: Term, summed: set[Label]) -> Term:
    """A term that is summed over labels, divided by how many places they have."""
    scale, counts = term.scale, term.counts
    for label in summed:
        if label.size.value is None:
            counts = multiplied_powers(counts, ((label.size, Fraction(1)),))
        else:
            scale /= label.size.value
    return replace(term, scale=scale, counts=counts)
