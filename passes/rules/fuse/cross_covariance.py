"""Attention over channels (El-Nouby et al., "XCiT", 2021) from its formula."""

from __future__ import annotations

from typing import Any

from nomul.ir.graph import Value
from nomul.ir.shapes import ONE
from nomul.passes.graph_tools import produced_by
from nomul.passes.matcher import Match, Pattern
from nomul.passes.rule import NoMatch, PatternRule, Rewriter


class CrossCovariance(PatternRule):
    """softmax(unit(q) @ unit(k)^T * temperature) @ v for q, k, v [B, H, D, S] -> cross_covariance_attention."""

    @staticmethod
    def pattern(
        g: Any, q: Pattern, k: Pattern, v: Pattern, temperature: Pattern, q_square: Pattern, k_square: Pattern
    ) -> Pattern:
        def unit(x: Pattern, square: Pattern, low: str) -> Pattern:
            length = g.ew.sqrt(g.reduce.sum(square, axes=(3,), keepdims=True))
            return g.ew.div(x, g.ew.clip(length, low=g.attr(low)))

        turned = g.view.transpose(unit(k, k_square, "k_low"), perm=(0, 1, 3, 2))
        scores = g.ew.mul(g.nn.matmul(unit(q, q_square, "q_low"), turned), temperature)
        return g.nn.matmul(g.nn.softmax(scores, axis=3), v)

    def check(self, m: Match) -> None:
        if not _fits(m):
            raise NoMatch(f"queries {m.q.type}, keys {m.k.type} and values {m.v.type} are not of one shape", m.k)
        for x, square, low in ((m.q, m.q_square, m.q_low), (m.k, m.k_square, m.k_low)):
            if not _is_square(square, x):
                raise NoMatch("the divisor is not the length of what it divides", square)
            if not 0 <= low <= 1e-6:
                raise NoMatch(f"lengths below {low} count as that", square)
        heads = m.q.shape[1]
        if m.temperature.shape[-3:] != (heads, ONE, ONE) or m.temperature.type.numel != heads:
            raise NoMatch(f"the temperature {m.temperature.type} is not one number for each head", m.temperature)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        q, k, v = (g.view.transpose(x, perm=(0, 3, 1, 2)) for x in (m.q, m.k, m.v))
        temperature = g.view.reshape(m.temperature, shape=(m.q.shape[1],))
        return g.view.transpose(g.nn.cross_covariance_attention(q, k, v, temperature), perm=(0, 2, 3, 1))


def _fits(m: Match) -> bool:
    """Whether q, k and v are of one shape of rank 4."""
    return bool(m.q.type.rank == 4 and m.q.shape == m.k.shape == m.v.shape)


def _is_square(square: Value, x: Value) -> bool:
    """Whether `square` is x * x; simplification may have put reshapes of whole tensors on both."""
    product = produced_by(_source(square), "ew.mul")
    return product is not None and product.args[0] is product.args[1] and _source(product.args[0]) is _source(x)


def _source(value: Value | None) -> Value | None:
    reshape = produced_by(value, "view.reshape")
    return reshape.args[0] if reshape is not None else value
