"""Linear attention (Katharopoulos et al., 2020) from its formula, in whatever order and layout it is multiplied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from nomul.ir.dim import Dim, product
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.contraction import Contraction, Factor, Label, contraction
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

_MAPS = {"ew.relu": "relu", "ew.exp": "exp"}


@dataclass(frozen=True)
class _Roles:
    """q [lead, s, d], k [lead, t, d], v [lead, t, e], their axes in any order."""

    q: Factor
    k: Factor
    v: Factor
    lead: frozenset[Label]
    s: Label
    t: Label
    d: Label
    e: Label


class LinearAttentionFormula(NodeRule):
    """phi(q) (phi(k)^T v) / (phi(q) sum(phi(k)) + eps), multiplied in any order -> linear_attention; over earlier keys
    by running sums or by a mask."""

    ops = ("nn.matmul", "ew.mul", "ew.div")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        if len(whole.factors) != 3 or len(whole.divisors) != 1 or len(whole.divisors[0].factors) != 2:
            return None
        roles = next((found for factors in permutations(whole.factors) if (found := _roles(whole, *factors))), None)
        if roles is None:
            return None
        causal, eps = _checked(whole, roles)
        map, q, k = _mapped(roles)
        heads = _heads(roles)
        lead = [label for label in roles.v.labels if label in roles.lead and label is not heads]
        order = sorted(lead, key=lambda label: _place(roles.v, label))
        q = _arranged(g, roles.q, q, (*order,), (roles.s, heads, roles.d))
        k = _arranged(g, roles.k, k, (*order,), (roles.t, heads, roles.d))
        v = _arranged(g, roles.v, roles.v.value, (*order,), (roles.t, heads, roles.e))
        y = g.nn.linear_attention(q, k, v, map=map, causal=causal, eps=eps)
        made = [label for label in (*order, roles.s, heads, roles.e) if label is not None]
        y = g.view.reshape(y, shape=tuple(label.size for label in made))
        y = g.view.transpose(y, perm=tuple(made.index(label) for label in whole.free))
        return g.view.reshape(y, shape=node.result.shape)


def _roles(whole: Contraction, q: Factor, k: Factor, v: Factor) -> _Roles | None:
    """Which factor is what, or None."""
    free = frozenset(whole.free)
    lead = q.labels & k.labels & v.labels
    parts = [q.labels - k.labels - v.labels, (k.labels & v.labels) - q.labels, (q.labels & k.labels) - v.labels]
    parts.append(v.labels - q.labels - k.labels)
    if any(len(part) != 1 for part in parts):
        return None
    (s,), (t,), (d,), (e,) = parts
    fits = free == lead | {s, e} and len(whole.free) == len(free)
    fits &= (q.labels, k.labels, v.labels) == (lead | {s, d}, lead | {t, d}, lead | {t, e})
    return _Roles(q, k, v, lead, s, t, d, e) if fits else None


def _checked(whole: Contraction, roles: _Roles) -> tuple[bool, float]:
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


def _divisor_token(below: Contraction, roles: _Roles) -> Label | None:
    """The label of keys in the divisor where that is the sum of q k over keys, else None."""
    for q, k in (below.factors, below.factors[::-1]):
        pairs = [*_paired(roles.q, q), *_paired(roles.k, k)]
        names: dict[Label, Label] = {}
        if not pairs or q.value is not roles.q.value or k.value is not roles.k.value:
            continue
        consistent = all(names.setdefault(one, other) is other for one, other in pairs)
        kept = all(names[label] is label for label in (*roles.lead, roles.s))
        summed = names.get(roles.t), names.get(roles.d)
        if consistent and kept and set(below.free) == roles.lead | {roles.s} and not set(summed) & set(below.free):
            return names[roles.t]
    return None


def _paired(one: Factor, other: Factor) -> list[tuple[Label, Label]]:
    """The labels of two factors by place; empty for other shapes."""
    if [len(axis) for axis in one.axes] != [len(axis) for axis in other.axes]:
        return []
    flat = ([label.root() for axis in factor.axes for label in axis] for factor in (one, other))
    return list(zip(*flat, strict=True))


def _mapped(roles: _Roles) -> tuple[str, Value, Value]:
    """(map, queries, keys): the feature map that both have, and what it is a map of."""
    found = [_map(factor, roles.d) for factor in (roles.q, roles.k)]
    if found[0][0] != found[1][0]:
        return "identity", roles.q.value, roles.k.value
    return found[0][0], found[0][1], found[1][1]


def _map(factor: Factor, size: Label) -> tuple[str, Value]:
    value = factor.value
    if (add := produced_by(value, "ew.add")) is not None:
        for one, other in (add.args, add.args[::-1]):
            elu = produced_by(one, "ew.elu")
            if elu is not None and elu.attrs.get("alpha", 1.0) == 1.0 and number(other) == 1:
                return "elu", _operand(elu)
    softmax = produced_by(value, "nn.softmax")
    if softmax is not None and any(label.root() is size for label in factor.axes[softmax.attrs["axis"]]):
        return "softmax", _operand(softmax)
    node = value.producer
    return (_MAPS[node.op], _operand(node)) if node is not None and node.op in _MAPS else ("identity", value)


def _operand(node: Node) -> Value:
    value = node.args[0]
    assert value is not None
    return value


def _heads(roles: _Roles) -> Label | None:
    """The last leading label of a fixed size, as the values have them, or None."""
    fixed = [label for label in roles.lead if label.size.value is not None]
    return max(fixed, key=lambda label: _place(roles.v, label), default=None)


def _place(factor: Factor, label: Label) -> int:
    return next(place for place, axis in enumerate(factor.axes) if axis and axis[0].root() is label)


def _arranged(g: Rewriter, factor: Factor, value: Value, lead: Sequence[Label], rest: Sequence[Label | None]) -> Value:
    """[product of lead, tokens, heads or 1, size] of a value with the axes of the factor."""
    wanted = [_place(factor, label) for label in (*lead, *rest) if label is not None]
    units = [place for place, axis in enumerate(factor.axes) if not axis]
    turned = g.view.transpose(value, perm=(*units, *wanted))
    sizes: list[Dim] = [product([label.size for label in lead]), *(ONE if one is None else one.size for one in rest)]
    return g.view.reshape(turned, shape=tuple(sizes))
