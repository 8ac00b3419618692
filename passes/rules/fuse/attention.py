"""Softmax attention from two products around a softmax (Vaswani et al., 2017); its scale, masks and heads."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE, Shape
from nomul.ir.types import DType
from nomul.ir.views import view_chain
from nomul.passes.base import Miss
from nomul.passes.contraction import arranged, contraction
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import is_elementwise, is_known, is_view, number, produced_by
from nomul.passes.matcher import Match, Pattern
from nomul.passes.rule import NodeRule, NoMatch, PatternRule, Rewriter
from nomul.passes.view_tools import rebuild_views

NEGLIGIBLE = -1e30  # a score plus this is this: adding it and putting it in place are the same


class Attention(PatternRule):
    """softmax(cap(q @ k * scale) + mask) @ v -> attention, with the tokens in front of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.least = 2  # products around a softmax are worth telling, however many forms the scores have

    @staticmethod
    def pattern(
        g: Any,
        q: Pattern,
        k: Pattern,
        v: Pattern,
        scale: Constant,
        cap: Constant,
        mask: Pattern,
        second: Pattern,
        hidden: Constant,
    ) -> Pattern:
        product = g.nn.matmul(q, k, bind="product")
        scaled = g.any_of(product, g.ew.mul(product, scale))
        scores = g.cast(g.any_of(scaled, g.ew.mul(g.ew.tanh(g.cast(scaled)), cap)))
        masked = g.any_of(
            scores,
            g.ew.add(scores, mask),
            g.ew.add(g.ew.add(scores, mask), second),
            g.ew.where(mask, scores, hidden),
            g.ew.where(mask, hidden, scores, bind="inverted"),
            g.ew.where(second, g.ew.add(scores, mask), hidden),
            g.ew.where(second, hidden, g.ew.add(scores, mask), bind="inverted"),
        )
        weights = g.cast(g.nn.softmax(masked, axis=-1))
        safe = g.any_of(weights, g.ew.where(g.ew.is_nan(weights), 0.0, weights))
        return g.nn.matmul(g.any_of(safe, bind="weights"), v)

    def attempt(self, g: Rewriter, node: Node, misses: list[Miss]) -> Value | None:
        told = len(misses)
        found = super().attempt(g, node, misses)
        changed = _changed_weights(node) if found is None and len(misses) == told else None
        if changed is not None:
            reason = f"the attention weights are changed behind the softmax, by {changed.op}"
            misses.append(self._miss(node, reason, changed, 0.5))
        return found

    def check(self, m: Match) -> None:
        if len(m.product.users) > 1:
            raise NoMatch("the scores are used elsewhere", m.product)
        if len({node for node, _ in m.weights.users}) > 1:
            raise NoMatch("the attention weights are used elsewhere", m.weights)
        ranks = {m.q.type.rank, m.k.type.rank, m.v.type.rank}
        if len(ranks) > 1 or min(ranks) > 5:
            raise NoMatch(f"queries, keys and values have ranks {sorted(ranks)}", m.product)
        _check_heads(m)
        _check_masks(m)

    def rewrite(self, g: Rewriter, m: Match) -> Value:
        to_tokens = _TokenMajor(g, m.q.shape[:-2])
        q, v = to_tokens(m.q), to_tokens(m.v)
        turned = (*range(m.k.type.rank - 2), m.k.type.rank - 1, m.k.type.rank - 2)
        k = to_tokens(g.view.transpose(m.k, perm=turned))
        scale, cap = 1.0 if m.scale is None else number(m.scale) or 0.0, number(m.cap) or 0.0
        mask = _mask(g, m, to_tokens)
        rules = {"scale": scale * (cap or 1.0), "softcap": cap}
        return to_tokens.back(g.nn.attention(q, k, v, mask, **rules), m.root.result.shape)


def _changed_weights(node: Node) -> Node | None:
    """The first node behind a softmax where element-wise work, by known numbers at the most, makes its results the left
    operand of a product."""
    changed, value = None, node.args[0]
    while value is not None and value.producer is not None and value.producer.op != "nn.softmax":
        step = value.producer
        inputs = [arg for arg in step.args if arg is not None and not is_known(arg)]
        if not (is_elementwise(step) or is_view(step)) or len(inputs) != 1:
            return None
        changed = step if is_elementwise(step) and step.op != "ew.cast" else changed
        value = inputs[0]
    return changed if value is not None and value.producer is not None else None


def _check_heads(m: Match) -> None:
    q, k, v = m.q.shape, m.k.shape, m.v.shape
    if k[:-2] != v[:-2]:
        raise NoMatch(f"keys {m.k.type} and values {m.v.type} have other leading axes", m.v)
    same = q[:-3] == k[:-3] if len(q) > 3 else q[:-2] == k[:-2]
    heads_fit = len(q) <= 3 or q[-3] == k[-3] or k[-3] == ONE
    if not same or not heads_fit:
        raise NoMatch(f"keys {m.k.type} do not belong to queries {m.q.type}", m.k)
    if len(q) > 3 and q[-3].value is None:
        raise NoMatch(f"the number of heads {q[-3]} is not fixed", m.q)


def _check_masks(m: Match) -> None:
    for mask in (m.mask, m.second):
        if mask is None:
            continue
        if mask.dtype not in (m.q.dtype, DType.BOOL):
            raise NoMatch(f"the mask is {mask.dtype}, the queries are {m.q.dtype}", mask)
        if mask.type.rank > max(m.q.type.rank, 2):
            raise NoMatch(f"the mask has rank {mask.type.rank}", mask)
    if m.cap is not None and not number(m.cap) > 0:  # type: ignore[operator]
        raise NoMatch(f"scores are limited to {m.cap}, which is not positive", m.cap)
    if m.hidden is not None and not number(m.hidden) <= NEGLIGIBLE:  # type: ignore[operator]
        raise NoMatch(f"scores are replaced by {m.hidden}, which is not negligible", m.hidden)


class _TokenMajor:
    """Turns [..., H, S, D] into [B, S, H, D] (fewer leading axes: one head), and results back."""

    def __init__(self, g: Rewriter, lead: Shape) -> None:
        self.g = g
        self.rank = len(lead) + 2
        self.lead = lead

    def __call__(self, x: Value) -> Value:
        """x [..., S, D] as [B, S, H, D]."""
        g, (rows, columns) = self.g, x.shape[-2:]
        if self.rank <= 3:
            batch = x.shape[0] if self.rank == 3 else ONE
            return g.view.reshape(x, shape=(batch, rows, ONE, columns))
        if self.rank == 5:
            x = g.view.reshape(x, shape=(x.shape[0] * x.shape[1], *x.shape[2:]))
        return g.view.transpose(x, perm=(0, 2, 1, 3))

    def back(self, y: Value, shape: Shape) -> Value:
        """The result [B, S, H, E] in the shape that the source had."""
        turned = y if self.rank <= 3 else self.g.view.transpose(y, perm=(0, 2, 1, 3))
        return turned if turned.shape == shape else self.g.view.reshape(turned, shape=shape)

    def mask(self, mask: Value) -> Value:
        """A mask that broadcasts to [..., S, T] as one that broadcasts to [B, H, S, T]."""
        g = self.g
        if self.rank == 3 and mask.type.rank == 3:
            return g.view.reshape(mask, shape=(mask.shape[0], ONE, *mask.shape[1:]))
        if self.rank == 5 and mask.type.rank > 3:
            full = (ONE,) * (5 - mask.type.rank) + mask.shape
            lead = self.lead[:2] if (full[0] != ONE or full[1] != ONE) else (ONE, ONE)
            wide = g.view.expand(g.view.reshape(mask, shape=full), shape=(*lead, *full[2:]))
            return g.view.reshape(wide, shape=(lead[0] * lead[1], *full[2:]))
        return mask


def _mask(g: Rewriter, m: Match, to_tokens: _TokenMajor) -> Value | None:
    if m.mask is None:
        return None
    mask = to_tokens.mask(m.mask)
    if m.hidden is not None and m.second is not None:
        seen, parts = to_tokens.mask(m.second), (mask, m.hidden)
        return g.ew.where(seen, *(parts if m.inverted is None else parts[::-1]))
    if m.hidden is not None:
        if m.inverted is not None:
            mask = g.ew.not_(mask)
        if number(m.hidden) == -inf:
            return mask
        zero = Constant(0.0, m.q.dtype)
        return g.ew.where(mask, zero, Constant(float(m.hidden.value), m.q.dtype))
    return mask if m.second is None else g.ew.add(mask, to_tokens.mask(m.second))


class TransposedScores(NodeRule):
    """softmax of the transposed scores of (q @ k) -> softmax of k^T @ q^T, where values follow: matchers attend in both
    directions with one product, which attention computes faster twice than it writes and reads it once."""

    ops = ("nn.softmax",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turn = produced_by(node.args[0], "view.transpose")
        if turn is None or node.attrs["axis"] != node.result.type.rank - 1:
            return None
        rank = node.result.type.rank
        swap = (*range(rank - 2), rank - 1, rank - 2)
        scaled = produced_by(turn.args[0], "ew.mul")
        factor = scaled.args[1] if scaled is not None and number(scaled.args[1]) is not None else None
        product = produced_by(scaled.args[0] if scaled is not None and factor else turn.args[0], "nn.matmul")
        if product is None or turn.attrs["perm"] != swap or any(arg.type.rank != rank for arg in product.args if arg):
            return None
        if not all(user.op == "nn.matmul" for user, _ in node.result.users):
            raise NoMatch("the weights of the transposed scores are used elsewhere", node.result)
        q, k = product.args
        scores = g.nn.matmul(g.view.transpose(k, perm=swap), g.view.transpose(q, perm=swap))
        scores = scores if factor is None else g.ew.mul(scores, factor)
        return g.nn.softmax(scores, axis=rank - 1)


class ScaleIntoAttention(NodeRule):
    """attention(q * c, k) and attention(q, k * c) -> c in the scale of attention, for a literal c, behind views too."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for position in (0, 1):
            operand = node.args[position]
            assert operand is not None
            chain = view_chain(operand)
            product = produced_by(chain[-1].args[0] if chain else operand, "ew.mul")
            factor = number(product.args[1]) if product else None
            if product is None or factor is None or factor <= 0:
                continue
            args = list(node.args)
            args[position] = rebuild_views(g, chain, product.args[0])
            return g.nn.attention(*args, **(node.attrs | {"scale": node.attrs["scale"] * factor}))
        return None


class GroupedHeads(NodeRule):
    """attention over keys and values repeated for groups of query heads -> attention over the few heads themselves
    (Ainslie et al., "GQA", 2023)."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        k, v = (ungrouped(g, node.args[position]) for position in (1, 2))
        if k is None and v is None:
            return None
        if k is None or v is None or k.shape[2] != v.shape[2]:
            raise NoMatch("keys and values are not repeated alike", node.args[1] if k is None else node.args[2])
        return g.nn.attention(node.args[0], k, v, *node.args[3:], **node.attrs)


def ungrouped(g: Rewriter, value: Value | None) -> Value | None:
    """The [B, T, G, D] of which `value` [B, T, H, D] repeats each head H / G times, or None."""
    turn = produced_by(value, "view.transpose")
    inner = turn.args[0] if turn is not None and turn.attrs["perm"] == (0, 2, 1, 3) else value
    axis = 1 if inner is not value else 2
    source = _repeated(g, inner, axis)
    if source is None:
        return None if value is None else _single(g, value)
    return g.view.transpose(source, perm=(0, 2, 1, 3)) if axis == 1 else source


def _single(g: Rewriter, value: Value) -> Value | None:
    """The [B, T, 1, D] of which views make all heads of `value` [B, T, H, D], or None."""
    found = contraction(value, g.module.dims)
    batch, tokens, heads, size = found.axes
    inner = found.factors[0] if len(found.factors) == 1 else None
    if inner is None or found.is_made or not heads or set(heads) & inner.labels or max(len(tokens), len(size)) > 1:
        return None
    if inner.labels != {*batch, *tokens, *size}:
        return None
    return arranged(g, inner, inner.value, batch, (tokens[0] if tokens else None, None, size[0] if size else None))


def _repeated(g: Rewriter, value: Value | None, axis: int) -> Value | None:
    """The source of value = repeat(source, R, axis): by expand and reshape, or by gather."""
    if (gather := produced_by(value, "index.gather")) and gather.attrs["axis"] == axis:
        source, index = gather.args[0], known_array(gather.args[1])
        heads = source.shape[axis].value if source is not None else None
        if index is None or heads is None or index.size % heads:
            return None
        return source if np.array_equal(index, np.repeat(np.arange(heads), index.size // heads)) else None
    reshape = produced_by(value, "view.reshape")
    expand = produced_by(reshape.args[0], "view.expand") if reshape else None
    if reshape is None or expand is None or expand.result.type.rank != 5:
        return None
    source, wide = expand.args[0], expand.result.shape
    assert source is not None
    merged = (*wide[:axis], wide[axis] * wide[axis + 1], *wide[axis + 2 :])
    if merged != reshape.result.shape or source.shape != (*wide[: axis + 1], ONE, *wide[axis + 2 :]):
        return None
    return g.view.reshape(source, shape=(*source.shape[: axis + 1], *source.shape[axis + 2 :]))
