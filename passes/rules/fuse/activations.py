"""GELU, SiLU, hard-swish, hard-sigmoid, mish, softplus and leaky ReLU from their formulas."""

from __future__ import annotations

from math import inf, pi, sqrt
from typing import Any

from nomul.ir.graph import Constant, Value
from nomul.passes.graph_tools import number
from nomul.passes.matcher import Match, Pattern
from nomul.passes.rule import NoMatch, PatternRule, Rewriter


def _halved_product(g: Any, x: Pattern, one_plus: Any) -> Pattern:
    """x * 0.5 * (1 + f) with the factors in any order, and x * (0.5 + 0.5 * f). one_plus(): the pattern of f."""
    gate = g.ew.add(one_plus, 1.0)
    return g.any_of(
        g.ew.mul(g.ew.mul(x, gate), 0.5),
        g.ew.mul(g.ew.mul(x, 0.5), gate),
        g.ew.mul(x, g.ew.mul(gate, 0.5)),
        g.ew.mul(x, g.ew.add(g.ew.mul(one_plus, 0.5), 0.5)),
    )


class Gelu(PatternRule):
    """x * 0.5 * (1 + erf(x / sqrt(2))) -> gelu (Hendrycks and Gimpel, 2016)."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        return _halved_product(g, x, g.ew.erf(g.ew.mul(x, sqrt(0.5))))

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.gelu(m.x)


class GeluTanh(PatternRule):
    """x * 0.5 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) -> gelu {approximate="tanh"}."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        c, root = 0.044715, sqrt(2 / pi)
        square = g.ew.mul(x, x)
        cube = g.any_of(g.ew.mul(square, x), g.ew.pow(x, 3.0))
        sum = g.any_of(
            g.ew.add(x, g.ew.mul(cube, c)),
            g.ew.add(x, g.ew.mul(g.ew.mul(square, c), x)),
            g.ew.add(x, g.ew.mul(g.ew.mul(x, c), square)),
            g.ew.add(x, g.ew.mul(g.ew.mul(g.ew.mul(x, c), x), x)),
            g.ew.mul(x, g.ew.add(g.ew.mul(square, c), 1.0)),
        )
        inner = g.any_of(
            g.ew.mul(sum, root),
            g.ew.mul(g.ew.mul(x, root), g.ew.add(g.ew.mul(square, c), 1.0)),
            g.ew.mul(x, g.ew.mul(g.ew.add(g.ew.mul(square, c), 1.0), root)),
            g.ew.mul(x, g.ew.add(g.ew.mul(square, c * root), root)),
        )
        return _halved_product(g, x, g.ew.tanh(inner))

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.gelu(m.x, approximate="tanh")


class Sigmoid(PatternRule):
    """1 / (1 + exp(-x)) -> sigmoid."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        return g.ew.reciprocal(g.ew.add(g.ew.exp(g.ew.neg(x)), 1.0))

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.sigmoid(m.x)


class Silu(PatternRule):
    """x * sigmoid(x) -> silu."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        return g.any_of(g.ew.mul(x, g.ew.sigmoid(x)), g.ew.div(x, g.ew.add(g.ew.exp(g.ew.neg(x)), 1.0)))

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.silu(m.x)


class HardSigmoid(PatternRule):
    """clip(x + 3, 0, 6) / 6 and clip(x / 6 + 1/2, 0, 1) -> hard_sigmoid."""

    @staticmethod
    def pattern(g: Any, x: Pattern, alpha: Constant, beta: Constant) -> Pattern:
        return g.any_of(
            g.ew.mul(g.ew.clip(g.ew.add(x, 3.0), low=0.0, high=6.0), 1 / 6),
            g.ew.clip(g.ew.add(g.ew.mul(x, alpha), beta), low=0.0, high=1.0),
        )

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        if m.alpha is None:
            return g.ew.hard_sigmoid(m.x)
        return g.ew.hard_sigmoid(m.x, alpha=number(m.alpha), beta=number(m.beta))


class HardSwish(PatternRule):
    """x * hard_sigmoid(x) -> hard_swish (Howard et al., 2019)."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        six = g.ew.clip(g.ew.add(x, 3.0), low=0.0, high=6.0)
        return g.any_of(
            g.ew.mul(x, g.ew.hard_sigmoid(x, alpha=_close_to(1 / 6), beta=_close_to(0.5))),
            g.ew.mul(g.ew.mul(x, six), 1 / 6),
            g.ew.mul(g.ew.mul(x, 1 / 6), six),
        )

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.hard_swish(m.x)


def _close_to(wanted: float) -> Any:
    return lambda given: abs(given - wanted) < 1e-4


class Softplus(PatternRule):
    """log(1 + exp(x)) -> softplus."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        return g.any_of(g.ew.log(g.ew.add(g.ew.exp(x), 1.0)), g.ew.log1p(g.ew.exp(x)))

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.softplus(m.x)


class Mish(PatternRule):
    """x * tanh(softplus(x)) -> mish (Misra, 2019)."""

    @staticmethod
    def pattern(g: Any, x: Pattern) -> Pattern:
        return g.ew.mul(x, g.ew.tanh(g.ew.softplus(x)))

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.mish(m.x)


class LeakyRelu(PatternRule):
    """where(x > 0, x, x * slope) -> leaky_relu."""

    @staticmethod
    def pattern(g: Any, x: Pattern, slope: Constant) -> Pattern:
        return g.ew.where(g.op(("ew.gt", "ew.ge"), x, 0.0), x, g.ew.mul(x, slope))

    def check(self, m: Match) -> None:
        if number(m.slope) in (inf, -inf):
            raise NoMatch("the slope is infinite", m.slope)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        return g.ew.leaky_relu(m.x, slope=number(m.slope))
