"""Gated linear attention (Yang et al., 2024) from its parallel formula, whose powers overflow where tokens are many."""

from __future__ import annotations

from dataclasses import replace

from nomul.ir.graph import Node, Value
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, paired
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.linear_attention import Roles, by_tokens, mapped, roles_of


class GatedLinearFormula(NodeRule):
    """q exp(G) (k exp(-G))^T v over earlier keys, G the running sum of g over tokens -> linear_attention with decay."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        if len(whole.factors) != 3 or whole.divisors or whole.added or not whole.order:
            return None
        roles = roles_of(whole)
        grown, shrunk = (_gated(roles.q, False), _gated(roles.k, True)) if roles is not None else (None, None)
        if roles is None or grown is None or shrunk is None:
            return None
        sums = _checked(whole, roles, grown[1], shrunk[1])
        plain = replace(roles, q=_behind_views(g, roles.q, grown[0]), k=_behind_views(g, roles.k, shrunk[0]))
        map, queries, keys = mapped(plain)
        q, k, v = by_tokens(g, plain, queries, keys)
        decay = g.view.expand(sums.args[0], shape=roles.k.value.shape)
        decay = arranged(g, roles.k, decay, roles.order, (roles.t, roles.heads, roles.d))
        y = g.nn.linear_attention(q, k, v, decay, map=map, causal=True, normalise=False)
        return roles.back(g, y if whole.scale == 1 else g.ew.mul(y, whole.scale), whole, node.result.shape)


def _gated(factor: Factor, shrunk: bool) -> tuple[Value, Value] | None:
    """(x, G) of x * exp(G), or where it shrinks of x * exp(-G) or x / exp(G)."""
    node = produced_by(factor.value, "ew.mul", "ew.div")
    if node is None or (node.op == "ew.div" and not shrunk):
        return None
    for x, power in (node.args, node.args[::-1]) if node.op == "ew.mul" else (node.args,):
        exp = produced_by(power, "ew.exp")
        sums = exp.args[0] if exp is not None else None
        if shrunk and node.op == "ew.mul":
            negative = produced_by(sums, "ew.neg")
            sums = negative.args[0] if negative is not None else None
        if x is not None and sums is not None and x.shape == factor.value.shape:
            return x, sums
    return None


def _behind_views(g: Rewriter, factor: Factor, x: Value) -> Factor:
    """A value with the axes of the factor, as far as it can be what views show of another."""
    found = contraction(x, g.module.dims)
    labels = [label for label in factor.flat if label is not None]
    alike = [label.size for label in found.free] == [label.size for label in labels]
    if len(found.factors) != 1 or replace(found, axes=()) != Contraction((), found.factors) or not alike:
        return Factor(x, factor.axes)
    names, inner = dict(zip(found.free, labels, strict=True)), found.factors[0]
    if inner.labels != set(names):
        return Factor(x, factor.axes)
    return Factor(inner.value, tuple(tuple(names[label.root()] for label in axis) for axis in inner.axes))


def _checked(whole: Contraction, roles: Roles, grown: Value, shrunk: Value) -> Node:
    """The running sum that queries grow by and keys shrink by. Raises NoMatch."""
    sums = produced_by(shrunk, "reduce.cumsum")
    if grown is not shrunk or sums is None:
        raise NoMatch("queries do not grow by the running sums that keys shrink by", roles.q.value)
    if [(one.root(), other.root()) for one, other in whole.order] != [
        (roles.s, roles.t)
    ] or roles.s.size != roles.t.size:
        raise NoMatch("not each query sees the keys up to its own", roles.k.value)
    axes = roles.k.axes[sums.attrs["axis"]]
    pairs = paired(roles.q, roles.k)
    alike = all(one is other or (one, other) == (roles.s, roles.t) for one, other in pairs)
    if not pairs or not alike or [label.root() for label in axes] != [roles.t]:
        raise NoMatch("the sums do not run over the tokens of queries and keys alike", shrunk)
    return sums
