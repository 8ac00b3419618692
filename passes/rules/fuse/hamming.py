"""Attention of binary codes (You et al., "ShiftAddViT", 2023) from its formula."""

from __future__ import annotations

from math import isclose, pi

from nomul.ir.graph import Node, Value
from nomul.ir.types import DType
from nomul.passes.contraction import Contraction, contraction, paired
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.linear_attention import Roles, by_tokens, roles_of

CLOSE = 1e-5
_RESHAPES = ("view.reshape",)
_PASSING = (*_RESHAPES, "view.transpose")


class HammingFormula(NodeRule):
    """v / 2 + q (k^T v) / pi for bits q and k -> hamming_attention."""

    ops = ("ew.add",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for one, other in (node.args, node.args[::-1]):
            half = produced_by(_shown(one), "ew.mul")
            if other is None or half is None or number(half.args[1]) != 0.5:
                continue
            whole, own = contraction(other, g.module.dims), contraction(node.result, g.module.dims)
            if len(whole.factors) != 3 or whole.divisors or whole.added or own.is_sum:
                continue
            roles = roles_of(whole)
            if roles is not None and _bits(roles) is not None:
                return self._built(g, node, roles, whole, one)
        return None

    def _built(self, g: Rewriter, node: Node, roles: Roles, whole: Contraction, half: Value | None) -> Value:
        bits = _bits(roles)
        assert bits is not None and half is not None
        if not isclose(whole.scale, 1 / pi, rel_tol=CLOSE):
            raise NoMatch(f"products of codes are scaled by {whole.scale:g}, not 1 / pi", node.result)
        if whole.order or not _is_half(g, half, roles, whole):
            raise NoMatch("what is added to the products is not half of the values", half)
        if roles.s.size != roles.t.size:
            raise NoMatch(f"{roles.s.size} queries for {roles.t.size} keys", node.result)
        q, k, v = by_tokens(g, roles, *bits)
        return roles.back(g, g.nn.hamming_attention(q, k, v, normalise=False), whole, node.result.shape)


def _bits(roles: Roles) -> tuple[Value, Value] | None:
    """What queries and keys are casts of, where that is bits."""
    casts = [produced_by(factor.value, "ew.cast") for factor in (roles.q, roles.k)]
    bits = [cast.args[0] for cast in casts if cast is not None]
    if len(bits) != 2 or any(value is None or value.dtype is not DType.BOOL for value in bits):
        return None
    return bits[0], bits[1]  # type: ignore[return-value]


def _is_half(g: Rewriter, half: Value, roles: Roles, whole: Contraction) -> bool:
    """Whether a value is half of the values, in the layout of the products."""
    seen = contraction(half, g.module.dims)
    node = produced_by(seen.factors[0].value, "ew.mul") if len(seen.factors) == 1 else None
    if node is None or node.args[0] is None:
        return False
    values = contraction(node.args[0], g.module.dims)
    places = [label.root() for axis in seen.factors[0].axes for label in axis]
    if len(values.factors) != 1 or values.is_sum or values.factors[0].value is not roles.v.value:
        return False
    if len(places) != len(values.free):
        return False  # the halves are of values whose axes are joined
    inner = dict(zip(values.free, places, strict=True))
    names = {label: inner.get(twin) for label, twin in paired(roles.v, values.factors[0])}
    wanted = [names.get(roles.t if label is roles.s else label) for label in whole.free]
    return wanted == list(seen.free)


class NormalisedHamming(NodeRule):
    """hamming_attention by its length in each head -> hamming_attention {normalise}."""

    ops = ("ew.mul", "ew.div")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x = unit_of(node)
        attention = produced_by(_shown(x), "nn.hamming_attention")
        if x is None or attention is None or attention.attrs["normalise"]:
            return None
        seen = contraction(x, g.module.dims)
        last = seen.factors[0].axes[-1]
        if [label.root() for label in last] != [label.root() for label in seen.axes[-1]]:
            raise NoMatch("the length is not that of each head", x)
        y: Value | None = g.nn.hamming_attention(*attention.args, normalise=True)
        chain, value = [], x
        while value is not attention.result:
            assert value.producer is not None and value.producer.args[0] is not None
            chain.append(value.producer)
            value = value.producer.args[0]
        for view in reversed(chain):
            y = g.op(view.op, y, **view.attrs)
        return y


class HammingCodesFormula(NodeRule):
    """x / |x| > its mean over the whole tensor -> hamming_codes."""

    ops = ("ew.gt", "ew.lt")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        unit, mean = node.args if node.op == "ew.gt" else node.args[::-1]
        average = produced_by(_shown(mean), "reduce.mean")
        if unit is None or average is None or average.args[0] is not unit or unit.producer is None:
            return None
        x = unit_of(unit.producer)
        if x is None or unit.type.rank != 4:
            return None
        if len(average.attrs["axes"]) != 4:
            raise NoMatch("the mean is not that of the whole tensor", mean)
        return g.nn.hamming_codes(x)


def unit_of(node: Node) -> Value | None:
    """x of x / sqrt(sum(x * x)) over the last axis, or None."""
    pairs = (node.args, node.args[::-1]) if node.op == "ew.mul" else (node.args,)
    for x, factor in pairs:
        root = produced_by(factor, "ew.rsqrt" if node.op == "ew.mul" else "ew.sqrt")
        total = produced_by(root.args[0], "reduce.sum") if root is not None else None
        if x is None or total is None or not total.attrs["keepdims"] or total.attrs["axes"] != (x.type.rank - 1,):
            continue
        squares = total.args[0]
        square = produced_by(_shown(squares, _RESHAPES), "ew.mul")
        if square is None or square.args[0] is not square.args[1] or squares is None or squares.shape != x.shape:
            continue
        if _shown(square.args[0], _RESHAPES) is _shown(x, _RESHAPES):  # so that elements keep their order
            return x
    return None


def _shown(value: Value | None, views: tuple[str, ...] = _PASSING) -> Value | None:
    """The value behind views of these kinds."""
    while value is not None and value.producer is not None and value.producer.op in views:
        value = value.producer.args[0]
    return value
