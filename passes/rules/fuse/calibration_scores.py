"""Queries, keys, scale and mask of softmax weights, for rules that look at what becomes of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE, Shape
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NoMatch, Rewriter
from nomul.passes.rules.fuse.attention import NEGLIGIBLE
from nomul.passes.rules.fuse.causal import Facts, Judge


@dataclass(frozen=True)
class Scores:
    """q @ k * scale, of earlier keys only where causal; shape: of the scores, [..., S, T]."""

    q: Value
    k: Value
    scale: float
    causal: bool
    shape: Shape

    @staticmethod
    def of(g: Rewriter, weights: Value, shape: Shape) -> Scores:
        """Those whose softmax the weights are, which are shown with that shape. Raises NoMatch."""
        node = weights.producer
        assert node is not None and node.args[0] is not None
        inner, causal = _unmasked(g, node.args[0])
        scale = 1.0
        while (step := produced_by(inner, "ew.mul", "view.reshape", "ew.cast")) is not None:
            factor = number(step.args[1]) if step.op == "ew.mul" else 1.0
            if factor is None or step.args[0] is None or not same_axes(step.args[0].shape, step.result.shape):
                break
            scale, inner = scale * factor, step.args[0]
        product = produced_by(inner, "nn.matmul")
        q, k = product.args if product is not None else (None, None)
        if q is None or k is None:
            raise NoMatch("the scores are no product of queries and keys", inner)
        if q.shape[:-2] != k.shape[:-2] or not same_axes(q.shape[:-2], shape[:-2]):
            raise NoMatch(f"keys {k.type} do not belong to queries {q.type}", product)
        return Scores(q, k, scale, causal, shape)

    def operands(self, g: Rewriter, v: Value) -> tuple[Value, Value, Value]:
        """q, k and v as [B, S, H, D]."""
        rank = self.k.type.rank
        k = g.view.transpose(self.k, perm=(*range(rank - 2), rank - 1, rank - 2))
        q, k, v = (self._by_tokens(g, x) for x in (self.q, k, v))
        return q, k, v

    def _by_tokens(self, g: Rewriter, x: Value) -> Value:
        lead, (tokens, size) = self.shape[:-2], x.shape[-2:]
        if len(lead) == 1:
            return g.view.reshape(x, shape=(*lead, tokens, ONE, size))
        return g.view.transpose(g.view.reshape(x, shape=(*lead, tokens, size)), perm=(0, 2, 1, 3))

    def back(self, g: Rewriter, y: Value, shape: Shape) -> Value:
        """A result [B, S, H, E] in the layout of the scores."""
        return g.view.reshape(y if len(shape) == 3 else g.view.transpose(y, perm=(0, 2, 1, 3)), shape=shape)


def same_axes(one: Shape, other: Shape) -> bool:
    """Whether only axes of size 1 differ."""
    return [size for size in one if size != ONE] == [size for size in other if size != ONE]


def _unmasked(g: Rewriter, value: Value) -> tuple[Value, bool]:
    """(scores without their mask, whether that hides later keys). Raises NoMatch for another mask."""
    judge = Judge((value.shape[-2], value.shape[-1]), g.module.dims)
    where, add = produced_by(value, "ew.where"), produced_by(value, "ew.add")
    if where is not None:
        for scores, place in ((where.args[1], 2), (where.args[2], 1)):
            if scores is not None and number(scores) is None and _low(where.args[place]):
                return scores, _causal(judge, where, hides=place == 1)
    for scores, mask in (add.args, add.args[::-1]) if add is not None else ():
        if scores is None or mask is None:
            continue
        array, node = known_array(mask), produced_by(mask, "ew.where")
        if array is not None and array.ndim >= 2 and ((array == 0) | (array <= NEGLIGIBLE)).all():
            return scores, _told(judge.facts(g.weight("visible", array == 0)), mask)
        for seen, place in ((1, 2), (2, 1)):
            if node is not None and number(node.args[seen]) == 0 and _low(node.args[place]):
                return scores, _causal(judge, node, hides=place == 1)
    return value, False


def _low(value: Value | None) -> bool:
    given = number(value)
    return given is not None and -inf <= given <= NEGLIGIBLE


def _causal(judge: Judge, where: Node, hides: bool) -> bool:
    condition = where.args[0]
    assert condition is not None
    return _told(judge.opposite(condition) if hides else judge.facts(condition), condition)


def _told(facts: Facts | None, mask: Value) -> bool:
    if facts not in (Facts(causal=True), Facts()):
        raise NoMatch("the scores have a mask besides that of later keys", mask)
    return facts.causal
