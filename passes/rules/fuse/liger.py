"""Liger attention (Lan et al., 2025): half of gated linear attention and half of softmax attention in a window."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.ir.graph import Node, Value
from nomul.passes.contraction import same_elements
from nomul.passes.graph_tools import is_view, number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.view_tools import rebuild_views

HALF = 0.5
_NEAR = {"causal": True, "scores": "f32", "block": 1, "prefix": 0, "offset": 0, "softcap": 0.0}
_GATED = {"map": "softmax", "causal": True, "normalise": False}


@dataclass(frozen=True)
class _Branch:
    """An attention behind views (nearest to the end first), times a factor."""

    attention: Node
    views: tuple[Node, ...]
    factor: float

    @staticmethod
    def of(value: Value | None, factor: float) -> _Branch | None:
        views: list[Node] = []
        while value is not None and (node := value.producer) is not None:
            if node.op in ("nn.attention", "nn.linear_attention"):
                return _Branch(node, tuple(views), factor)
            times = number(node.args[1]) if node.op == "ew.mul" else None
            if times is None and not is_view(node):
                return None
            views += [node] if times is None else []
            factor *= times or 1.0
            value = node.args[0]
        return None


class LigerFormula(NodeRule):
    """attention in a window / 2 + gated linear attention of the same values / 2 -> liger_attention."""

    ops = ("ew.add", "ew.mul")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        factor = number(node.args[1]) if node.op == "ew.mul" else 1.0
        sum = produced_by(node.args[0], "ew.add") if node.op == "ew.mul" else node
        if sum is None or factor is None:
            return None
        branches = [_Branch.of(arg, factor) for arg in sum.args]
        for near, gated in (branches, branches[::-1]):
            if near is None or gated is None or gated.attention.operand(3) is None:
                continue
            if (near.attention.op, gated.attention.op) == ("nn.attention", "nn.linear_attention"):
                is_halved_later = near.factor == gated.factor == 1
                return None if is_halved_later else self._built(g, near, gated)
        return None

    def _built(self, g: Rewriter, near: _Branch, gated: _Branch) -> Value:
        if {near.factor, gated.factor} != {HALF}:
            raise NoMatch(f"the parts count {near.factor:g} and {gated.factor:g}, not {HALF} each")
        _check(g, near, gated)
        q, k, v, decay = gated.attention.args[:4]
        turned, scale = near.attention.args[:2], near.attention.attrs["scale"]
        y = g.nn.liger_attention(q, k, v, *turned, decay, scale=scale, window=_window(g, near.attention))
        return rebuild_views(g, near.views, y)


def _check(g: Rewriter, near: _Branch, gated: _Branch) -> None:
    """Raises NoMatch where the branches are not the two of Liger attention."""
    attention, linear = near.attention, gated.attention
    for node, wanted in ((attention, _NEAR), (linear, _GATED)):
        differs = next((name for name, value in wanted.items() if node.attrs[name] != value), None)
        if differs is not None:
            raise NoMatch(f"{differs}={node.attrs[differs]}, not {wanted[differs]}", node)
    if any(attention.operand(position) is not None for position in range(3, 7)):
        raise NoMatch("softmax attention has a mask besides its window", attention)
    values, others = attention.args[2], linear.args[2]
    assert values is not None and others is not None
    if not same_elements(values, others, g.module.dims):
        raise NoMatch("the two parts mix other values", attention)
    shown, other = (rebuild_views(g, branch.views, attention.result) for branch in (near, gated))
    if not same_elements(shown, other, g.module.dims):
        raise NoMatch("the two parts are laid out differently", attention)


def _window(g: Rewriter, attention: Node) -> int:
    """How many keys a query sees at the most."""
    tokens = attention.result.shape[1].bounds(g.module.dims)[1]
    return int(attention.attrs["window"] or tokens)
