"""Arithmetic with literals and weights: they stand on the right, as additions and multiplications; no-ops go."""

from __future__ import annotations

from math import inf

import numpy as np

from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import is_known, number, produced_by
from nomul.passes.rule import NodeRule, Rewriter


class KnownOnTheRight(NodeRule):
    """op(literal, x) -> op(x, literal) for commutative ops."""

    ops = ("ew.add", "ew.mul", "ew.max", "ew.min", "ew.eq", "ew.ne", "ew.and", "ew.or", "ew.xor")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        left, right = node.args
        if is_known(right) or not is_known(left):
            return None
        return g.op(node.op, right, left)


class SubtractKnown(NodeRule):
    """x - c -> x + (-c), exactly the same."""

    ops = ("ew.sub",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        if not is_known(c) or is_known(x) or not (c.dtype.is_float or isinstance(c, Constant)):  # type: ignore[union-attr]
            return None
        negated = g.ew.neg(c)
        return g.ew.add(x, negated) if is_known(negated) else None


class DivideByKnown(NodeRule):
    """x / c -> x * (1 / c) for floats: one rounding more, a multiplication instead of a division."""

    ops = ("ew.div",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        array = known_array(c)
        if array is None or is_known(x) or not c.dtype.is_float:  # type: ignore[union-attr]
            return None
        with np.errstate(all="ignore"):
            inverted = (1.0 / array.astype(np.float64)).astype(array.dtype)
        if not np.isfinite(inverted).all() or (inverted == 0).any():
            return None
        return g.ew.mul(x, g.weight(c.name, inverted))  # type: ignore[union-attr]


_NEUTRAL = {
    "ew.add": 0.0, "ew.sub": 0.0, "ew.mul": 1.0, "ew.div": 1.0, "ew.pow": 1.0, "ew.max": -inf, "ew.min": inf,
    "ew.floor_div": None,
}  # fmt: skip


class Neutral(NodeRule):
    """x + 0, x * 1, x / 1, x ** 1 -> x where the shape stays."""

    ops = tuple(op for op, neutral in _NEUTRAL.items() if neutral is not None)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        array = known_array(c)
        if x is None or array is None or x.type != node.result.type:
            return None
        return x if array.size and bool((array == _NEUTRAL[node.op]).all()) else None


class Power(NodeRule):
    """x ** 2, 3, 0.5, -0.5, -1 by cheaper ops."""

    ops = ("ew.pow",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        power = number(c)
        if power == 2:
            return g.ew.mul(x, x)
        if power == 3:
            return g.ew.mul(g.ew.mul(x, x), x)
        op = {0.5: "ew.sqrt", -0.5: "ew.rsqrt", -1.0: "ew.reciprocal"}.get(power) if power is not None else None
        return g.op(op, x) if op else None


class ReciprocalRoot(NodeRule):
    """1 / sqrt(x) -> rsqrt(x); x / sqrt(y) -> x * rsqrt(y) where y has fewer axes than x; 1 / x -> reciprocal(x)."""

    ops = ("ew.reciprocal", "ew.div")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x = node.args[-1]
        root = produced_by(x, "ew.sqrt")
        if node.op == "ew.reciprocal":
            return g.ew.rsqrt(root.args[0]) if root else None
        if number(node.args[0]) == 1 and node.result.dtype.is_float:
            return g.ew.rsqrt(root.args[0]) if root else g.ew.reciprocal(x)
        if root and x is not None and x.shape != node.result.shape:
            return g.ew.mul(node.args[0], g.ew.rsqrt(root.args[0]))
        return None


class ChainOfKnown(NodeRule):
    """(x * a) * b -> x * (a * b), (x + a) + b -> x + (a + b), for literals and weights."""

    ops = ("ew.add", "ew.mul")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(node.args[0], node.op)
        if inner is None or not is_known(node.args[1]) or not is_known(inner.args[1]):
            return None
        if len(inner.result.users) > 1 or is_known(inner.args[0]):
            return None
        merged = g.op(node.op, inner.args[1], node.args[1])
        replacement = g.op(node.op, inner.args[0], merged)
        if is_known(merged) and replacement.type == node.result.type:
            return replacement
        g.discard()
        return None


class Negation(NodeRule):
    """-(-x) -> x, not not x -> x, x + (-y) -> x - y, x * -1 -> -x."""

    ops = ("ew.neg", "ew.not", "ew.add", "ew.mul")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if node.op in ("ew.neg", "ew.not"):
            inner = produced_by(node.args[0], node.op)
            return inner.args[0] if inner else None
        if node.op == "ew.mul":
            return g.ew.neg(node.args[0]) if number(node.args[1]) == -1 and not is_known(node.args[0]) else None
        for negated, other in (node.args, node.args[::-1]):
            inner = produced_by(negated, "ew.neg")
            if inner and not is_known(other):
                return g.ew.sub(other, inner.args[0])
        return None


class UniformWeight(NodeRule):
    """A weight of equal numbers is a literal where it only broadcasts."""

    ops = ("ew.add", "ew.mul", "ew.sub", "ew.div", "ew.pow", "ew.max", "ew.min", "ew.where", "ew.eq", "ew.ne",
           "ew.lt", "ew.le", "ew.gt", "ew.ge")  # fmt: skip

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for position, arg in enumerate(node.args):
            if isinstance(arg, Weight) and (literal := _uniform(arg)) is not None:
                args = [*node.args[:position], literal, *node.args[position + 1 :]]
                made = g.op(node.op, *args)
                if made.type == node.result.type:
                    return made
                g.discard()
        return None


def _uniform(weight: Weight) -> Constant | None:
    array = known_array(weight)
    if array is None or array.size == 0 or array.size > 1 << 16:
        return None
    first = array.reshape(-1)[0]
    return Constant(first.item(), weight.dtype) if bool((array == first).all()) else None
