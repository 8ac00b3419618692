"""Gated linear attention (Yang et al., 2024) from its parallel formula, whose powers overflow where tokens are many."""

from __future__ import annotations

from dataclasses import replace

from nomul.ir.graph import Node, Value
from nomul.passes.contraction import Contraction, Factor, arranged, contraction, paired
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.linear_attention import Roles, behind_views, by_tokens, mapped, roles_of


class GatedLinearFormula(NodeRule):
    """q exp(G) (k exp(-G))^T v over earlier keys, G the running sum of g over tokens -> linear_attention with decay."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        whole = contraction(node.result, g.module.dims)
        if len(whole.factors) != 3 or whole.divisors or whole.added or not whole.order:
            return None
        roles = roles_of(whole)
        grown, shrunk = (_gated(g, roles.q, False), _gated(g, roles.k, True)) if roles is not None else (None, None)
        if roles is None or grown is None or shrunk is None:
            return None
        sums = _checked(whole, roles, grown[1], shrunk[1])
        plain = replace(roles, q=behind_views(g, roles.q, grown[0]), k=behind_views(g, roles.k, shrunk[0]))
        map, queries, keys = mapped(plain)
        q, k, v = by_tokens(g, plain, queries, keys)
        decay = _decay(g, roles, shrunk[1], sums.args[0], k)
        y = g.nn.linear_attention(q, k, v, decay, map=map, causal=True, normalise=False)
        return roles.back(g, y if whole.scale == 1 else g.ew.mul(y, whole.scale), whole, node.result.shape)


def _decay(g: Rewriter, roles: Roles, sums: Factor, gates: Value | None, k: Value) -> Value:
    """What is summed up, with the axes of its sums, as [B, T, G, D] of the keys. Raises NoMatch."""
    assert gates is not None
    lead = [label for label in roles.order if label in sums.labels]
    if lead and lead != roles.order:
        raise NoMatch("gates are shared by some of the leading axes", gates)
    rest = [label if label in sums.labels else None for label in (roles.t, roles.heads, roles.d)]
    decay = arranged(g, sums, gates, lead, rest)
    return decay if decay.shape == k.shape else g.view.expand(decay, shape=k.shape)


def _gated(g: Rewriter, factor: Factor, shrunk: bool) -> tuple[Value, Factor] | None:
    """(x, G) of x * exp(G), or where it shrinks of x * exp(-G) or x / exp(G); G with the axes of the factor."""
    node = produced_by(factor.value, "ew.mul", "ew.div")
    if node is None or (node.op == "ew.div" and not shrunk):
        return None
    for x, power in (node.args, node.args[::-1]) if node.op == "ew.mul" else (node.args,):
        sums = _operand(g, None if power is None else behind_views(g, factor, power), "ew.exp")
        if shrunk and node.op == "ew.mul":
            sums = _operand(g, sums, "ew.neg")
        if x is not None and sums is not None and x.shape == factor.value.shape:
            return x, sums
    return None


def _operand(g: Rewriter, factor: Factor | None, op: str) -> Factor | None:
    """The operand of the op that makes a value, behind views; None for another op."""
    node = produced_by(factor.value, op) if factor is not None else None
    return behind_views(g, factor, node.args[0]) if factor and node and node.args[0] is not None else None


def _checked(whole: Contraction, roles: Roles, grown: Factor, shrunk: Factor) -> Node:
    """The running sum that queries grow by and keys shrink by. Raises NoMatch."""
    sums = produced_by(shrunk.value, "reduce.cumsum")
    if grown.value is not shrunk.value or sums is None:
        raise NoMatch("queries do not grow by the running sums that keys shrink by", roles.q.value)
    order = [(one.root(), other.root()) for one, other in whole.order]
    if order != [(roles.s, roles.t)] or roles.s.size != roles.t.size:
        raise NoMatch("not each query sees the keys up to its own", roles.k.value)
    axes, pairs = shrunk.axes[sums.attrs["axis"]], paired(grown, shrunk)
    alike = all(one is other or (one, other) == (roles.s, roles.t) for one, other in pairs)
    if not pairs or not alike or [label.root() for label in axes] != [roles.t]:
        raise NoMatch("the sums do not run over the tokens of queries and keys alike", shrunk.value)
    return sums
