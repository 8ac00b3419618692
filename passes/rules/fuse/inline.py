"""Injective linear attention (Han et al., "Bridging the divide", 2024) from its formula, wherever its brackets are."""

from __future__ import annotations

from itertools import permutations
from math import isclose

from nomul.ir.graph import Node, Value
from nomul.passes.contraction import Factor, paired
from nomul.passes.contraction_axes import Label
from nomul.passes.contraction_sum import Sum, Term, terms_of
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.linear_attention import Roles, by_tokens, roles_of

CLOSE = 1e-4  # of factors that the source may have rounded to f32 more than once


class InlineFormula(NodeRule):
    """q k^T v * scale / T - q mean(k) mean(v) * scale + mean(v) -> inline_attention."""

    ops = ("ew.add", "ew.sub", "nn.matmul")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        terms = terms_of(node.result)
        if not {len(term.factors) for term in terms} <= {1, 3} or len(terms) not in (2, 3):
            return None
        found = _far(terms)
        if found is None:
            return None
        whole, roles, rest = found
        scale = _checked(whole, roles, rest)
        q, k, v = by_tokens(g, roles, roles.q.value, roles.k.value)
        return roles.back(g, g.nn.inline_attention(q, k, v, scale=scale), whole, node.result.shape)


def _far(terms: Sum) -> tuple[Term, Roles, Sum] | None:
    """(q k^T v, who is who, the other terms), where one of those is the product of q and both means; or None."""
    for whole in terms:
        roles = roles_of(whole) if len(whole.factors) == 3 else None
        rest = [term for term in terms if term is not whole]
        if roles is not None and any(_is_central(term, roles) for term in rest):
            return whole, roles, rest
    return None


def _is_central(term: Term, roles: Roles) -> bool:
    """Whether a term is q k^T v, each of k and v summed over all tokens for itself."""
    kept = {*roles.lead, roles.s, roles.e}
    for q, k, v in permutations(term.factors, 3) if len(term.factors) == 3 else ():
        names = [_names(*pair) for pair in ((roles.q, q), (roles.k, k), (roles.v, v))]
        if not all(names) or any(found.get(label, label) is not label for found in names for label in kept):
            continue
        of_q, of_k, of_v = names
        summed = {of_q[roles.d], of_k[roles.t], of_v[roles.t]}
        if of_q[roles.d] is of_k[roles.d] and len(summed) == 3 and not summed & set(term.free):
            return True
    return False


def _checked(whole: Term, roles: Roles, rest: Sum) -> float:
    """The scale of the formula. Raises NoMatch."""
    central = next(term for term in rest if _is_central(term, roles))
    means = [term for term in rest if term is not central]
    tokens = roles.t.size
    scale, less = whole.share(tokens, 1), central.share(tokens, 2)
    if scale is None or less is None or not isclose(less, -scale, rel_tol=CLOSE):
        raise NoMatch("the mean of the weights is not what is taken off them", roles.q.value)
    share = means[0].share(tokens, 1) if means else 0.0
    if not means or not _is_mean(means[0], roles) or share is None or not isclose(share, 1.0, rel_tol=CLOSE):
        raise NoMatch(f"the weights do not add up to 1: nothing adds the mean of the values over {tokens} tokens")
    return scale


def _is_mean(term: Term, roles: Roles) -> bool:
    """Whether a term is the sum of the values over tokens."""
    names = _names(roles.v, term.factors[0])
    kept = (*roles.lead, roles.e)
    return (
        len(term.factors) == 1
        and bool(names)
        and all(names[label] is label for label in kept)
        and names[roles.t] not in term.free
    )


def _names(one: Factor, other: Factor) -> dict[Label, Label]:
    """What the labels of a value are called where it is a factor again; empty where it is not the same."""
    names: dict[Label, Label] = {}
    if one.value is not other.value:
        return {}
    pairs = paired(one, other)
    return names if all(names.setdefault(label, twin) is twin for label, twin in pairs) else {}
