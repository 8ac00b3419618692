"""Softmax and log-softmax from exponentials and sums."""

from __future__ import annotations

from typing import Any

from nomul.ir.graph import Value
from nomul.passes.matcher import Match, Pattern
from nomul.passes.rule import NoMatch, PatternRule, Rewriter


def _shifted(g: Any, x: Pattern) -> Pattern:
    return g.any_of(g.ew.sub(x, g.reduce.max(x, axes=g.attr("max_axes"), keepdims=True)), x)


class Softmax(PatternRule):
    """exp(x - max) / sum(exp(x - max)) -> softmax."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        e = g.ew.exp(_shifted(g, x))
        total = g.reduce.sum(e, axes=g.attr("axes"), keepdims=True)
        return g.any_of(g.ew.div(e, total), g.ew.mul(e, g.ew.reciprocal(total)))

    def check(self, m: Match) -> None:
        _check_axes(m)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.nn.softmax(m.x, axis=m.axes[0])


class LogSoftmax(PatternRule):
    """(x - max) - log(sum(exp(x - max))) and log(softmax(x)) -> log_softmax."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        shifted = _shifted(g, x)
        total = g.reduce.sum(g.ew.exp(shifted), axes=g.attr("axes"), keepdims=True)
        return g.any_of(g.ew.sub(shifted, g.ew.log(total)), g.ew.log(g.nn.softmax(x, axis=g.attr("axis"))))

    def check(self, m: Match) -> None:
        if m.axis is None:
            _check_axes(m)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.nn.log_softmax(m.x, axis=m.axes[0] if m.axis is None else m.axis)


def _check_axes(m: Match) -> None:
    if len(m.axes) != 1:
        raise NoMatch(f"the sum runs over {len(m.axes)} axes", m.x)
    if m.max_axes is not None and m.max_axes != m.axes:
        raise NoMatch(f"maximum over axes {list(m.max_axes)}, sum over {list(m.axes)}", m.x)
