"""Minima, maxima, clips and conditions."""

from __future__ import annotations

from math import inf

from nomul.ir.graph import Constant, Node, Value
from nomul.ir.types import DType
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, Rewriter


class LimitByLiteral(NodeRule):
    """max(x, c) and min(x, c) -> clip."""

    ops = ("ew.max", "ew.min")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        limit = number(c)
        if limit is None or x is None or x.type != node.result.type:
            return None
        return g.ew.clip(x, low=limit) if node.op == "ew.max" else g.ew.clip(x, high=limit)


class ClipFromZero(NodeRule):
    """clip(x, 0, inf) -> relu(x); a clip without limits -> x."""

    ops = ("ew.clip",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, low, high = node.args[0], node.attrs["low"], node.attrs["high"]
        if high != inf:
            return None
        return x if low == -inf else g.ew.relu(x) if low == 0 else None


class ClipOfClip(NodeRule):
    """clip(clip(x)) and clip(relu(x)) -> one clip."""

    ops = ("ew.clip", "ew.relu")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(node.args[0], "ew.clip", "ew.relu")
        if inner is None:
            return None
        (low, high), (inner_low, inner_high) = _limits(node), _limits(inner)
        if low > inner_high or high < inner_low:
            return None
        return g.ew.clip(inner.args[0], low=max(low, inner_low), high=min(high, inner_high))


def _limits(node: Node) -> tuple[float, float]:
    return (0.0, inf) if node.op == "ew.relu" else (node.attrs["low"], node.attrs["high"])


class Select(NodeRule):
    """where with equal branches, a known or a negated condition."""

    ops = ("ew.where",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        condition, x, y = node.args
        assert x is not None and y is not None
        if inverted := produced_by(condition, "ew.not"):
            return g.ew.where(inverted.args[0], y, x)
        if isinstance(condition, Constant):
            chosen = x if condition.value else y
            return chosen if chosen.type == node.result.type else None
        return x if x is y and x.type == node.result.type else None


class SelectOfTruth(NodeRule):
    """where(a, b, false) -> a and b; where(a, true, b) -> a or b; the same for not a."""

    ops = ("ew.where",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        condition, *branches = node.args
        for truth, other, is_inverted in ((*branches, False), (*branches[::-1], True)):
            if not isinstance(truth, Constant) or truth.dtype is not DType.BOOL or other is None:
                continue
            seen = g.ew.not_(condition) if is_inverted == bool(truth.value) else condition
            result: Value = (g.ew.or_ if truth.value else g.ew.and_)(seen, other)
            return result if result.type == node.result.type else None
        return None


class Logic(NodeRule):
    """and / or with a literal."""

    ops = ("ew.and", "ew.or")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        if not isinstance(c, Constant) or x is None or x.type != node.result.type:
            return None
        return x if bool(c.value) == (node.op == "ew.and") else None


_OPPOSITE = {"ew.lt": "ew.ge", "ew.le": "ew.gt", "ew.gt": "ew.le", "ew.ge": "ew.lt", "ew.eq": "ew.ne", "ew.ne": "ew.eq"}


class NotOfComparison(NodeRule):
    """not (a < b) -> a >= b for integers (for floats a NaN makes the difference, except in == and !=)."""

    ops = ("ew.not",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(node.args[0], *_OPPOSITE)
        if inner is None or inner.args[0] is None:
            return None
        if inner.args[0].dtype.is_float and inner.op not in ("ew.eq", "ew.ne"):
            return None
        return g.op(_OPPOSITE[inner.op], *inner.args)


class BoolComparedToLiteral(NodeRule):
    """cast(b) != 0, cast(b) == 1, b == True -> b; the opposites -> not b."""

    ops = ("ew.eq", "ew.ne", "ew.gt")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, c = node.args
        if not isinstance(c, Constant) or x is None or c.value not in (0, 1, False, True):
            return None
        cast = produced_by(x, "ew.cast")
        source = cast.args[0] if cast else x
        if source is None or source.dtype is not DType.BOOL or source.shape != node.result.shape:
            return None
        if node.op == "ew.gt":
            return source if c.value == 0 else None
        keeps = bool(c.value) == (node.op == "ew.eq")
        return source if keeps else g.op("ew.not", source)
