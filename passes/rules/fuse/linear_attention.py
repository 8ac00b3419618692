"""Linear attention (Katharopoulos et al., 2020) from its formula, in whatever order and layout it is multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE, Shape
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, paired, place, restored
from nomul.passes.contraction_axes import Label, Misfit, regrouped
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

_MAPS = {"ew.relu": "relu", "ew.exp": "exp"}


@dataclass(frozen=True)
class Roles:
    """q [lead, group, s, d], k [lead, t, d], v [lead, t, e], their axes in any order; group: the queries that share a
    key head, if any do."""

    q: Factor
    k: Factor
    v: Factor
    lead: frozenset[Label]
    s: Label
    t: Label
    d: Label
    e: Label
    group: Label | None = None

    @property
    def heads(self) -> Label | None:
        """The last leading label of a fixed size, as the values have them, or None. One alone in front of tokens is a
        batch."""
        if len(self.lead) == 1 and all(place(self.v, label) < place(self.v, self.t) for label in self.lead):
            return None
        fixed = [label for label in self.lead if label.size.value is not None]
        return max(fixed, key=lambda label: place(self.v, label), default=None)

    @property
    def order(self) -> list[Label]:
        """The other leading labels, as the values have them."""
        heads = self.heads
        return sorted((label for label in self.lead if label is not heads), key=lambda label: place(self.v, label))

    @property
    def rows(self) -> frozenset[Label]:
        """The labels of queries that results have too."""
        return self.lead | {self.s} | ({self.group} if self.group else set())

    def back(self, g: Rewriter, y: Value, whole: Contraction, shape: Shape) -> Value:
        """Results [B, S, H, E] in the layout of the whole product, of that shape."""
        return restored(g, y, [*self.order, self.s, self.heads, self.group, self.e], whole, shape)


class LinearAttentionFormula(NodeRule):
    """phi(q) (phi(k)^T v) / (phi(q) sum(phi(k)) + eps), multiplied in any order -> linear_attention; over earlier keys
    by running sums or by a mask."""

    ops = ("nn.matmul", "ew.mul", "ew.div")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        if len(whole.factors) != 3 or len(whole.divisors) != 1 or len(whole.divisors[0].factors) != 2:
            return None
        roles = roles_of(whole)
        if roles is None:
            return None
        causal, eps = _checked(whole, roles)
        map, q, k = mapped(roles)
        q, k, v = by_tokens(g, roles, q, k)
        y = g.nn.linear_attention(q, k, v, map=map, causal=causal, eps=eps)
        return roles.back(g, y, whole, node.result.shape)


def by_tokens(g: Rewriter, roles: Roles, q: Value, k: Value) -> tuple[Value, Value, Value]:
    """Queries, keys (or what they are maps of, with the same axes) and values as [B, tokens, H, size]."""
    heads, lead = roles.heads, roles.order
    return (
        _queries(g, roles, q),
        arranged(g, roles.k, k, lead, (roles.t, heads, roles.d)),
        arranged(g, roles.v, roles.v.value, lead, (roles.t, heads, roles.e)),
    )


def _queries(g: Rewriter, roles: Roles, q: Value) -> Value:
    if roles.group is None:
        return arranged(g, roles.q, q, roles.order, (roles.s, roles.heads, roles.d))
    apart = arranged(g, roles.q, q, roles.order, (roles.s, roles.heads, roles.group, roles.d))
    batch, tokens, heads, group, size = apart.shape
    return g.view.reshape(apart, shape=(batch, tokens, heads * group, size))


def roles_of(whole: Contraction) -> Roles | None:
    """Queries, keys and values of a product of three, or None."""
    return next((found for factors in permutations(whole.factors, 3) if (found := _roles(whole, *factors))), None)


def _roles(whole: Contraction, q: Factor, k: Factor, v: Factor) -> Roles | None:
    """Which factor is what, or None."""
    free = frozenset(whole.free)
    lead = q.labels & k.labels & v.labels
    rows = _rows(whole, q.labels - k.labels - v.labels)
    parts = [(k.labels & v.labels) - q.labels, (q.labels & k.labels) - v.labels, v.labels - q.labels - k.labels]
    if rows is None or any(len(part) != 1 for part in parts):
        return None
    (t,), (d,), (e,) = parts
    roles = Roles(q, k, v, lead, rows[0], t, d, e, rows[1])
    fits = free == roles.rows | {e} and len(whole.free) == len(free)
    fits &= (q.labels, k.labels, v.labels) == (roles.rows | {d}, lead | {t, d}, lead | {t, e})
    return roles if fits else None


def _rows(whole: Contraction, labels: frozenset[Label]) -> tuple[Label, Label | None] | None:
    """(s, group) of the labels that queries alone have, or None. Without an order either may be called tokens."""
    ordered = [one.root() for one, _ in whole.order]
    found = sorted(
        labels, key=lambda label: (label not in ordered, label.size.value is not None, -(label.size.value or 0))
    )
    return (found[0], found[1] if len(found) == 2 else None) if len(found) in (1, 2) else None


def _checked(whole: Contraction, roles: Roles) -> tuple[bool, float]:
    """(causal, eps) of a formula with these roles. Raises NoMatch."""
    (below,) = whole.divisors
    token = _divisor_token(below, roles)
    if token is None:
        raise NoMatch("what divides is not the sum of the same products of queries and keys", roles.q.value)
    orders = [[(one.root(), other.root()) for one, other in part.order] for part in (whole, below)]
    causal = bool(orders[0])
    if orders != ([[(roles.s, roles.t)], [(roles.s, token)]] if causal else [[], []]):
        raise NoMatch("products and what divides them are summed over other keys", roles.k.value)
    if whole.scale != below.scale or below.scale <= 0:
        raise NoMatch(f"products are scaled by {whole.scale:g}, what divides them by {below.scale:g}", roles.q.value)
    if causal and roles.s.size != roles.t.size:
        raise NoMatch(f"{roles.s.size} queries see earlier ones of {roles.t.size} keys", roles.k.value)
    return causal, below.added / below.scale


def _divisor_token(below: Contraction, roles: Roles) -> Label | None:
    """The label of keys in the divisor where that is the sum of q k over keys, else None."""
    for q, k in (below.factors, below.factors[::-1]):
        pairs = [*paired(roles.q, q), *paired(roles.k, k)]
        names: dict[Label, Label] = {}
        if not pairs or q.value is not roles.q.value or k.value is not roles.k.value:
            continue
        consistent = all(names.setdefault(one, other) is other for one, other in pairs)
        kept = all(names[label] is label for label in roles.rows)
        summed = names.get(roles.t), names.get(roles.d)
        if consistent and kept and set(below.free) == roles.rows and not set(summed) & set(below.free):
            return names[roles.t]
    return None


def mapped(roles: Roles) -> tuple[str, Value, Value]:
    """(map, queries, keys): the feature map that both have, and what it is a map of."""
    found = [map_of(factor, roles.d) for factor in (roles.q, roles.k)]
    if found[0][0] != found[1][0]:
        return "identity", roles.q.value, roles.k.value
    return found[0][0], found[0][1], found[1][1]


def behind_views(g: Rewriter, factor: Factor, x: Value) -> Factor:
    """A value that broadcasts to the factor, with its axes, as far as it can be what views show of another."""
    found, wanted = contraction(x, g.module.dims), factor.axes[len(factor.axes) - x.type.rank :]
    shown = [labels if size != ONE else () for labels, size in zip(wanted, x.shape, strict=True)]
    alone = Factor(x, tuple(shown))
    labels = [label.root() for axis in shown for label in axis]
    try:
        axes, parts = regrouped(found.free, tuple(label.size for label in labels))
    except Misfit:
        return alone
    if len(found.factors) != 1 or found.is_made or found.added or any(len(axis) != 1 for axis in axes):
        return alone
    names = {axis[0].root(): label for axis, label in zip(axes, labels, strict=True)}
    inner = found.apart(parts, axes).factors[0]
    if not inner.labels <= set(names):
        return alone
    return Factor(inner.value, tuple(tuple(names[label.root()] for label in axis) for axis in inner.axes))


def map_of(factor: Factor, size: Label) -> tuple[str, Value]:
    """(feature map, what it is a map of) of queries or keys whose elements of a head have that label."""
    value = factor.value
    if (add := produced_by(value, "ew.add")) is not None:
        for one, other in (add.args, add.args[::-1]):
            elu = produced_by(one, "ew.elu")
            if elu is not None and elu.attrs.get("alpha", 1.0) == 1.0 and number(other) == 1:
                return "elu", _operand(elu)
    softmax = produced_by(value, "nn.softmax")
    if softmax is not None and [label.root() for label in factor.axes[softmax.attrs["axis"]]] == [size]:
        return "softmax", _operand(softmax)
    node = value.producer
    return (_MAPS[node.op], _operand(node)) if node is not None and node.op in _MAPS else ("identity", value)


def _operand(node: Node) -> Value:
    value = node.args[0]
    assert value is not None
    return value
