"""Products behind views as one sum of products over named axes, as einsum writes it: in whatever order and layout a
source multiplies, the same formula is the same contraction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Self, TypeVar

from nomul.ir.dim import Range, product
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE, Shape
from nomul.ir.types import DType
from nomul.passes.contraction_axes import (
    Axes,
    Label,
    Misfit,
    Parts,
    aligned,
    expanded,
    fresh,
    merged,
    parted,
    reduced,
    refined,
    regrouped,
    side_by_side,
)
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rules.fuse.causal import Facts, Judge

MOST_NODES = 64  # of a formula; longer ones are none that a rule looks for
Found = TypeVar("Found")


@dataclass(frozen=True)
class Factor:
    """A value that is multiplied; an axis has no label where its size is 1, more than one where views take it apart."""

    value: Value
    axes: Axes

    @property
    def labels(self) -> frozenset[Label]:
        return frozenset(label.root() for axis in self.axes for label in axis)

    @property
    def flat(self) -> list[Label | None]:
        """The labels of its axes in order; None for an axis of 1."""
        return [label and label.root() for axis in self.axes for label in axis or (None,)]


@dataclass(frozen=True)
class Contraction:
    """scale * (the product of all factors, summed over the labels that no axis has) / divisors + added.

    order: pairs (s, t) of labels: only terms with t <= s are summed."""

    axes: Axes
    factors: tuple[Factor, ...]
    scale: float = 1.0
    order: tuple[tuple[Label, Label], ...] = ()
    divisors: tuple[Contraction, ...] = ()
    added: float = 0.0

    @property
    def free(self) -> tuple[Label, ...]:
        """The labels of its axes in order."""
        return tuple(label.root() for axis in self.axes for label in axis)

    @property
    def labels(self) -> frozenset[Label]:
        """The labels of its factors."""
        return frozenset().union(*(factor.labels for factor in self.factors))

    @property
    def is_sum(self) -> bool:
        return bool(self.labels - set(self.free))

    @property
    def is_made(self) -> bool:
        """Whether it is more than a value seen through views."""
        return len(self.factors) != 1 or self.is_sum or bool(self.divisors)

    def without(self, summed: Iterable[Label], axes: Axes) -> Contraction | None:
        """Summed over more labels; None where that is no contraction."""
        roots = {label.root() for label in summed}
        divided = {label for divisor in self.divisors for label in divisor.free}
        if self.added or not roots <= self.labels or roots & divided:
            return None
        return replace(self, axes=axes)

    def apart(self, parts: Parts, axes: Axes) -> Self:
        """With parts of labels in their place. Raises Misfit where the order of a label counts."""
        if any(label.root() in parts for pair in self.order for label in pair):
            raise Misfit
        factors = tuple(replace(factor, axes=parted(factor.axes, parts)) for factor in self.factors)
        divisors = tuple(divisor.apart(parts, parted(divisor.axes, parts)) for divisor in self.divisors)
        return replace(self, axes=axes, factors=factors, divisors=divisors)


def contraction(value: Value, ranges: dict[str, Range]) -> Contraction:
    """How the value is made by products, sums and views of others, at the least of itself."""
    return _Reader(ranges).read(value)


@dataclass
class Reader(Generic[Found]):
    """Reads a value by the step of its node's op; one without a step, or whose axes do not fit, is `alone`.

    left: values that are still read; others stand for themselves. A value is read wherever it is used, which would be
    2^n times in n squares of squares."""

    left: int = field(default=MOST_NODES, kw_only=True)
    steps: dict[str, Callable[[Node], Found | None]] = field(init=False)

    def read(self, value: Value | None) -> Found:
        assert value is not None
        self.left -= 1
        node = value.producer
        step = self.steps.get(node.op) if node is not None and self.left > 0 else None
        try:
            found = step(node) if step and node else None
        except Misfit:
            found = None
        return found or self.alone(value)

    def alone(self, value: Value) -> Found:
        """What a value is that is not read further."""
        raise NotImplementedError


@dataclass
class _Reader(Reader[Contraction]):
    ranges: dict[str, Range]

    def __post_init__(self) -> None:
        self.steps = {
            "view.transpose": self._transpose,
            "view.reshape": self._reshape,
            "view.expand": self._expand,
            "nn.matmul": self._matmul,
            "ew.mul": self._multiply,
            "ew.div": self._divide,
            "ew.reciprocal": self._reciprocal,
            "ew.neg": lambda node: self._scaled(node.args[0], -1.0),
            "ew.add": self._add,
            "ew.where": self._where,
            "reduce.sum": self._sum,
            "reduce.cumsum": self._running_sum,
        }

    def alone(self, value: Value) -> Contraction:
        return leaf(value)

    # -- views ---------------------------------------------------------------------------------------------------
    def _transpose(self, node: Node) -> Contraction:
        found = self.read(node.args[0])
        return replace(found, axes=tuple(found.axes[axis] for axis in node.attrs["perm"]))

    def _reshape(self, node: Node) -> Contraction:
        found = self.read(node.args[0])
        axes, parts = regrouped(found.free, node.result.shape)
        return found.apart(parts, axes)

    def _expand(self, node: Node) -> Contraction:
        found = self.read(node.args[0])
        return replace(found, axes=expanded(found.axes, node.result.shape))

    # -- products ------------------------------------------------------------------------------------------------
    def _matmul(self, node: Node) -> Contraction | None:
        left, right = (self.read(arg) for arg in node.args)
        if min(len(left.axes), len(right.axes)) < 2:
            return None
        (left,), (right,) = fitted_product([left], [right])
        inner = merged(left.axes[-1], right.axes[-2])
        axes = (*aligned(left.axes[:-2], right.axes[:-2]), left.axes[-2], right.axes[-1])
        return multiplied(left, right, axes).without(inner, axes)

    def _multiply(self, node: Node) -> Contraction | None:
        for one, other in (node.args, node.args[::-1]):
            factor = number(other)
            if factor is not None:
                return self._scaled(one, factor)
            condition = produced_by(other, "ew.cast")
            if condition is not None and condition.args[0] is not None and condition.args[0].dtype is DType.BOOL:
                return self._ordered(node, one, condition.args[0])
        (left,), (right,) = fitted(*([self.read(arg)] for arg in node.args))
        axes = aligned(left.axes, right.axes)
        return None if _is_elementwise(left, right) else multiplied(left, right, axes)

    def _scaled(self, value: Value | None, factor: float) -> Contraction | None:
        found = self.read(value)
        return None if found.added or not found.is_made else replace(found, scale=found.scale * factor)

    def _divide(self, node: Node) -> Contraction | None:
        given = number(node.args[1])
        if given:
            return self._scaled(node.args[0], 1 / given)
        (above,), (below,) = fitted(*([self.read(arg)] for arg in node.args))
        axes = aligned(above.axes, below.axes)
        if above.added or below.divisors or _is_elementwise(above, below):
            return None
        return replace(above, axes=axes, divisors=(*above.divisors, below))

    def _reciprocal(self, node: Node) -> Contraction | None:
        below = self.read(node.args[0])
        return None if below.divisors else Contraction(below.axes, (), divisors=(below,))

    def _add(self, node: Node) -> Contraction | None:
        for one, other in (node.args, node.args[::-1]):
            given = number(other)
            found = self.read(one) if given is not None else None
            if given and found is not None and found.is_sum and not found.added and not found.divisors:
                return replace(found, added=given)
        return None

    # -- sums ----------------------------------------------------------------------------------------------------
    def _sum(self, node: Node) -> Contraction | None:
        found = self.read(node.args[0])
        return found.without(*reduced(found.axes, node))

    def _running_sum(self, node: Node) -> Contraction | None:
        found, axis = self.read(node.args[0]), node.attrs["axis"]
        if len(found.axes[axis]) != 1:
            return None
        (key,) = found.axes[axis]
        query = Label(key.size)
        axes = (*found.axes[:axis], (query,), *found.axes[axis + 1 :])
        ordered = found.without([key], axes)
        return ordered and replace(ordered, order=(*ordered.order, (query, key)))

    def _where(self, node: Node) -> Contraction | None:
        condition, x, y = node.args
        if number(y) == 0 and condition is not None:
            return self._ordered(node, x, condition)
        return self._ordered(node, y, condition, hidden=True) if number(x) == 0 and condition is not None else None

    def _ordered(self, node: Node, value: Value | None, condition: Value, hidden: bool = False) -> Contraction | None:
        """The value where the condition says that its last axis is not behind the one before; elsewhere 0."""
        found = self.read(value)
        if len(found.axes) < 2 or found.added or value is None or node.result.shape != value.shape:
            return None
        query, key = found.axes[-2:]
        judge = Judge((value.shape[-2], value.shape[-1]), self.ranges)
        facts = judge.opposite(condition) if hidden else judge.facts(condition)
        if len(query) != 1 or len(key) != 1 or facts != Facts(causal=True):
            return None
        return replace(found, order=(*found.order, (query[0], key[0])))


def _is_elementwise(left: Contraction, right: Contraction) -> bool:
    """Whether one of two values is only scaled by the other, element by element."""
    plain = not any(part.divisors or part.is_sum for part in (left, right))
    return plain and (set(left.free) <= set(right.free) or set(right.free) <= set(left.free))


def leaf(value: Value) -> Contraction:
    axes = tuple(fresh(size) for size in value.shape)
    return Contraction(axes, (Factor(value, axes),))


AnyContraction = TypeVar("AnyContraction", bound=Contraction)
Pair = tuple[list[AnyContraction], list[AnyContraction]]


def fitted(left: list[AnyContraction], right: list[AnyContraction]) -> Pair[AnyContraction]:
    """Two sums that are broadcast against each other, the labels of both taken apart alike. Raises Misfit."""
    return _apart(left, right, refined(side_by_side(left[0].axes, right[0].axes)))


def fitted_product(left: list[AnyContraction], right: list[AnyContraction]) -> Pair[AnyContraction]:
    """Two sums whose matrices are multiplied, the labels that meet taken apart alike. Raises Misfit."""
    one, other = left[0].axes, right[0].axes
    return _apart(left, right, refined([*side_by_side(one[:-2], other[:-2]), (one[-1], other[-2])]))


def _apart(left: list[AnyContraction], right: list[AnyContraction], parts: tuple[Parts, Parts]) -> Pair[AnyContraction]:
    def each(terms: list[AnyContraction], of: Parts) -> list[AnyContraction]:
        return [term.apart(of, parted(term.axes, of)) for term in terms] if of else terms

    return each(left, parts[0]), each(right, parts[1])


def multiplied(left: Contraction, right: Contraction, axes: Axes) -> Contraction:
    if left.added or right.added:
        raise Misfit
    return Contraction(
        axes,
        left.factors + right.factors,
        left.scale * right.scale,
        left.order + right.order,
        left.divisors + right.divisors,
    )


def paired(one: Factor, other: Factor) -> list[tuple[Label, Label]]:
    """The labels of two factors by place; empty for other shapes."""
    if [len(axis) for axis in one.axes] != [len(axis) for axis in other.axes]:
        return []
    flat = ([label.root() for axis in factor.axes for label in axis] for factor in (one, other))
    pairs = list(zip(*flat, strict=True))
    return pairs if all(label.size == twin.size for label, twin in pairs) else []


def same_elements(one: Value, other: Value, ranges: dict[str, Range]) -> bool:
    """Whether two values are the same, or the same views of one, in whatever order they are applied."""
    if one is other or one.type != other.type:
        return one is other
    left, right = (contraction(value, ranges) for value in (one, other))
    if any(len(part.factors) != 1 or part.is_made for part in (left, right)):
        return False
    source, twin = left.factors[0], right.factors[0]
    pairs = list(zip(left.free, right.free, strict=False))
    same = source.value is twin.value and len(left.free) == len(right.free)
    return same and all(pair in pairs for pair in paired(source, twin)) and source.labels <= set(left.free)


def place(factor: Factor, label: Label) -> int:
    """Where the label stands among those of the factor, axes of 1 counted."""
    return factor.flat.index(label)


def arranged(g: Any, factor: Factor, value: Value, lead: Sequence[Label], rest: Sequence[Label | None]) -> Value:
    """[product of lead, rest...] of a value with the axes of the factor; None is an axis of 1."""
    wanted = [place(factor, label) for label in (*lead, *rest) if label is not None]
    units = [place for place, label in enumerate(factor.flat) if label is None]
    if any(len(axis) > 1 for axis in factor.axes):
        value = g.view.reshape(value, shape=tuple(ONE if label is None else label.size for label in factor.flat))
    turned = g.view.transpose(value, perm=(*units, *wanted))
    sizes = [product([label.size for label in lead]), *(ONE if label is None else label.size for label in rest)]
    result: Value = g.view.reshape(turned, shape=tuple(sizes))
    return result


def restored(g: Any, y: Value, labels: Sequence[Label | None], whole: Contraction, shape: Shape) -> Value:
    """A value with these labels in the layout of a contraction, whose shape is given."""
    made = [label for label in labels if label is not None]
    y = g.view.reshape(y, shape=tuple(label.size for label in made))
    y = g.view.transpose(y, perm=tuple(made.index(label) for label in whole.free))
    result: Value = g.view.reshape(y, shape=shape)
    return result
