"""Sparse-linear attention (Zhang et al., "SLA", 2025) from the formulas of both releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import TILES
from nomul.ir.shapes import NOTHING
from nomul.ir.views import view_chain
from nomul.passes.contraction import Contraction, contraction, same_elements
from nomul.passes.contraction_axes import Axes, Misfit, regrouped, side_by_side
from nomul.passes.contraction_sum import terms_of
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.ranked_blocks import BETWEEN, FIRST, LAST
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.block_roles import Roles, product_of
from nomul.passes.view_tools import rebuild_views

_PLAIN = {"scores": "f32", "causal": False, "window": 0, "softcap": 0.0}
_LINEAR = {"causal": False, "normalise": True}


@dataclass(frozen=True)
class _Linear:
    """Linear attention: its axes by the labels of the sparse one. rest: as the op has it."""

    axes: Axes
    map: str
    eps: float
    rest: str
    negligible: Dim = NOTHING


class SparseLinearFormula(NodeRule):
    """attention to the first blocks of keys + linear attention to the others or to all -> sparse_linear_attention."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for one, other in (node.args, node.args[::-1]):
            assert one is not None and other is not None
            attention = produced_by(_source(one), "nn.attention")
            if attention is None or attention.operand(TILES) is None or one.shape != other.shape:
                continue
            try:
                return self._built(g, attention, one, other)
            except Misfit:
                raise NoMatch("queries, keys and values are not in whole blocks alike", one) from None
        return None

    def _built(self, g: Rewriter, attention: Node, one: Value, other: Value) -> Value | None:
        roles, chain = Roles.of(g, attention), view_chain(other)
        layer = produced_by(_source(other), "nn.linear")
        inner = other if layer is None else layer.args[0]
        if roles is None or inner is None:
            return None
        linear = _linear(g, roles, inner)
        _check(g, roles)
        axes = linear.axes if layer is None else _shown(chain, linear.axes)
        if axes != _shown(view_chain(one), roles.result):
            raise NoMatch("the linear part is laid out differently", other)
        weights: Sequence[Value | None] = [] if layer is None else layer.args[1:]
        if layer is not None and (linear.axes[-1] != roles.result[-1] or layer.attrs["act"] != "f32"):
            raise NoMatch("what follows the linear part does not mix the elements of a head", layer)
        y = g.nn.sparse_linear_attention(
            *attention.args[:3],
            *weights,
            scale=attention.attrs["scale"],
            critical=roles.ranks.first,
            negligible=linear.negligible,
            block=attention.attrs["tile"],
            map=linear.map,
            rest=linear.rest,
            eps=linear.eps,
        )
        return rebuild_views(g, view_chain(one), y)


def _source(value: Value) -> Value:
    chain = view_chain(value)
    source = chain[-1].args[0] if chain else value
    assert source is not None
    return source


def _shown(chain: Sequence[Node], axes: Axes) -> Axes:
    """The axes of a value with these behind views, the nearest first. Raises Misfit."""
    for node in reversed(chain):
        if node.op == "view.transpose":
            axes = tuple(axes[axis] for axis in node.attrs["perm"])
        elif node.op == "view.reshape":
            axes, parts = regrouped([label for axis in axes for label in axis], node.result.shape)
            if parts:
                raise Misfit
        else:
            raise Misfit
    return axes


def _check(g: Rewriter, roles: Roles) -> None:
    """Raises NoMatch where the sparse part is not that of the op."""
    attention = roles.attention
    differs = next((name for name, value in _PLAIN.items() if attention.attrs[name] != value), None)
    if differs is not None or any(attention.operand(position) is not None for position in range(3, TILES)):
        raise NoMatch(f"the sparse part has {differs or 'a mask'} besides its blocks", attention)
    if not _is_ranked(g, roles):
        raise NoMatch("blocks are not ranked by the products of their mean queries and keys", roles.ranks.scores)


def _is_ranked(g: Rewriter, roles: Roles) -> bool:
    """Whether scores order blocks as products of means do; what all keys of a row have in common does not count."""
    scores = roles.ranks.scores
    while (node := produced_by(scores, "nn.softmax", "ew.mul")) is not None:
        factor = number(node.args[1]) if node.op == "ew.mul" else 1.0
        if not factor or factor < 0 or node.attrs.get("axis", node.result.type.rank - 1) != node.result.type.rank - 1:
            break
        scores = node.args[0]
    assert scores is not None
    terms = terms_of(scores)
    last = {label.root() for label in terms[0].axes[-1]}
    varying = [term for term in terms if last & term.labels]
    if len(varying) != 1 or not last or varying[0].counts:
        return False
    found = product_of(g, varying[0], roles, (roles.q, roles.k), roles.tiles.axes)
    return found is not None and found.map == "identity" and found.axes == roles.tiles.axes and found.numbers[0] > 0


def _linear(g: Rewriter, roles: Roles, value: Value) -> _Linear:
    """Raises NoMatch for another value."""
    chain, node = view_chain(value), _source(value).producer
    if node is not None and node.op == "nn.linear_attention":
        pairs = list(zip(node.args[:3], roles.attention.args[:3], strict=True))
        same = all(one and other and same_elements(one, other, g.module.dims) for one, other in pairs)
        if not same or node.operand(3) is not None or any(node.attrs[name] != x for name, x in _LINEAR.items()):
            raise NoMatch("the linear part is of other queries, keys and values", node)
        return _Linear(_shown(chain, roles.result), node.attrs["map"], node.attrs["eps"], "all")
    if node is not None and node.op == "ew.div" and number(node.args[1]) is None:
        above, below = (terms_of(arg) for arg in node.args if arg is not None)
        added = sum(term.scale for term in below if not term.factors)
        found = _fraction(g, roles, above, [term for term in below if term.factors], added)
        return replace(found, axes=_shown(chain, found.axes))
    whole = contraction(value, g.module.dims)
    if len(whole.divisors) != 1:
        raise NoMatch("what is added to the sparse part is no linear attention", value)
    (divisor,) = whole.divisors
    return _fraction(g, roles, [replace(whole, divisors=())], [replace(divisor, added=0.0)], divisor.added)


def _fraction(
    g: Rewriter, roles: Roles, above: Sequence[Contraction], below: Sequence[Contraction], added: float
) -> _Linear:
    """above / (below + added), both sums of products. Raises NoMatch."""
    rows = roles.result[:3]
    tops = [product_of(g, term, roles, (roles.q, roles.k, roles.v), roles.result) for term in above]
    bottoms = [product_of(g, term, roles, (roles.q, roles.k), rows) for term in below]
    found = [part for part in (*tops, *bottoms) if part is not None]
    if len(found) < len(tops) + len(bottoms) or len({part.map for part in found}) != 1:
        raise NoMatch("the linear part is not made of the queries, keys and values of the sparse one")
    axes = [found[0].axes, found[-1].axes]
    if any(low and low != high for high, low in side_by_side(*axes)):
        raise NoMatch("rows of the linear part are divided by the sums of others")
    numbers, divisor = (np.sum([part.numbers for part in parts if part], axis=0) for parts in (tops, bottoms))
    unit = numbers[BETWEEN]
    shares = [float(number) for number in numbers / unit] if unit > 0 else []
    if not shares or not np.allclose(numbers, divisor) or shares[FIRST] not in (0, 1) or shares[LAST] not in (0, 1):
        raise NoMatch("the linear part does not cover the other blocks, or all")
    if shares[FIRST] == 1:
        if shares[LAST] == 0:
            raise NoMatch("the linear part covers the first blocks, but not the last")
        return _Linear(axes[0], found[0].map, added / unit, "all")
    last = {part.last for part in found} - {NOTHING}
    if len(last) > 1:
        raise NoMatch("parts of the linear attention leave out other blocks")
    negligible = next(iter(last), NOTHING) if shares[LAST] == 0 else NOTHING
    return _Linear(axes[0], found[0].map, added / unit, "marginal", negligible)
