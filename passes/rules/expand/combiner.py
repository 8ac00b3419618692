"""Combiner attention as products over segments, and one softmax over direct keys and spans."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.expand.terms import count_along, hidden, need, swapped

LOWEST = -6e4  # finite in every float type, and far below any score


class CombinerAttention(NodeRule):
    """combiner_attention -> scores of direct keys and of spans side by side, a softmax, and products of its parts."""

    ops = ("nn.combiner_attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        segment, scale = node.attrs["segment"], node.attrs["scale"]
        q, k, v = (_segments(g, need(node, position), segment) for position in range(3))
        scaled = g.ew.mul(q, scale)
        if node.attrs["pattern"] == "fixed":
            y = _fixed(g, (scaled, k, v), g.ew.mul(g.reduce.max(q, axes=(3,), keepdims=True), scale), node)
        else:
            y = _axial(g, q, scaled, k, v, scale)
        return g.view.reshape(g.view.transpose(y, perm=(0, 2, 3, 1, 4)), shape=node.result.shape)


def _segments(g: Rewriter, x: Value, segment: Dim) -> Value:
    """[B, S, H, D] as [B, H, S / segment, segment, D]."""
    batch, tokens, heads, size = x.shape
    apart = g.view.reshape(x, shape=(batch, tokens.divide_exactly(segment), segment, heads, size))
    return g.view.transpose(apart, perm=(0, 3, 1, 2, 4))


def _merged(g: Rewriter, x: Value, first: int) -> Value:
    """Axes `first` and the next one as one."""
    shape = (*x.shape[:first], x.shape[first] * x.shape[first + 1], *x.shape[first + 2 :])
    return g.view.reshape(x, shape=shape)


def _parts(g: Rewriter, weights: Value, *sizes: Dim) -> list[Value]:
    """The softmax of scores [..., sum of sizes], cut into its parts."""
    found, start = [], Dim.of(0)
    axis = weights.type.rank - 1
    for size in sizes:
        found.append(g.view.slice(weights, axis=axis, start=start, stop=start + size))
        start = start + size
    return found


def _fixed(g: Rewriter, grid: tuple[Value, ...], span_queries: Value, node: Node) -> Value:
    """grid: [B, H, segments, width, D], queries scaled."""
    q, k, v = grid
    batch, heads, segments, width, _ = q.shape
    inside = g.nn.softmax(g.nn.matmul(span_queries, swapped(g, k)), axis=4)
    span_values = _merged(g, g.nn.matmul(inside, v), 2)  # [B, H, segments, E]
    span_keys = _merged(g, g.reduce.max(k, axes=(3,), keepdims=True), 2)
    direct = g.nn.matmul(q, swapped(g, k))
    far = g.nn.matmul(_merged(g, q, 2), swapped(g, span_keys))
    far = g.view.reshape(far, shape=(batch, heads, segments, width, segments))
    own, other = count_along(g, segments, 5, 2), count_along(g, segments, 5, 4)
    if node.attrs["causal"]:
        direct = hidden(g, g.ew.le(count_along(g, width, 5, 4), count_along(g, width, 5, 3)), direct)
        far = hidden(g, g.ew.lt(other, own), far)
    else:
        far = hidden(g, g.ew.not_(g.ew.eq(other, own)), far)
    near, rest = _parts(g, g.nn.softmax(g.view.concat(direct, far, axis=4), axis=4), width, segments)
    summed = g.nn.matmul(_merged(g, rest, 2), span_values)
    return g.ew.add(g.nn.matmul(near, v), g.view.reshape(summed, shape=(*q.shape[:4], v.shape[4])))


def _axial(g: Rewriter, q: Value, scaled: Value, k: Value, v: Value, scale: float) -> Value:
    """Operands [B, H, rows, width, D]. What is of columns is computed as [B, H, column, row, ...]."""
    rows, width = q.shape[2:4]
    span_keys, span_queries = (_maxima_above(g, x) for x in (k, q))  # [B, H, row, column, D]
    by_column = [g.view.transpose(x, perm=(0, 1, 3, 2, 4)) for x in (scaled, k, v, span_queries)]
    above = g.ew.lt(count_along(g, rows, 5, 4), count_along(g, rows, 5, 3))
    inside = g.ew.mul(g.nn.matmul(by_column[3], swapped(g, by_column[1])), scale)
    inside = g.nn.softmax(hidden(g, above, inside, LOWEST), axis=4)
    span_values = g.view.transpose(g.nn.matmul(inside, by_column[2]), perm=(0, 1, 3, 2, 4))
    column = g.nn.matmul(by_column[0], swapped(g, by_column[1]))
    column = hidden(g, g.ew.le(count_along(g, rows, 5, 4), count_along(g, rows, 5, 3)), column)
    column = g.view.transpose(column, perm=(0, 1, 3, 2, 4))  # [B, H, row, column, row of a key]
    own, other = count_along(g, width, 5, 3), count_along(g, width, 5, 4)
    row = hidden(g, g.ew.lt(other, own), g.nn.matmul(scaled, swapped(g, k)))
    is_later = g.ew.gt(count_along(g, rows, 5, 2), 0)
    far = g.nn.matmul(scaled, swapped(g, g.ew.where(is_later, span_keys, Constant(0.0, k.dtype))))
    far = hidden(g, g.ew.and_(g.ew.not_(g.ew.eq(other, own)), is_later), far)
    weights = g.nn.softmax(g.view.concat(column, row, far, axis=4), axis=4)
    down, along, spans = _parts(g, weights, rows, width, width)
    y = g.nn.matmul(g.view.transpose(down, perm=(0, 1, 3, 2, 4)), by_column[2])
    y = g.ew.add(g.view.transpose(y, perm=(0, 1, 3, 2, 4)), g.nn.matmul(along, v))
    return g.ew.add(y, g.nn.matmul(spans, span_values))


def _maxima_above(g: Rewriter, x: Value) -> Value:
    """The maximum over the rows above each row, of x [B, H, rows, width, D]."""
    rows = x.shape[2]
    above = g.ew.lt(count_along(g, rows, 6, 3), count_along(g, rows, 6, 2))
    wide = g.view.reshape(x, shape=(*x.shape[:2], ONE, *x.shape[2:]))
    return g.reduce.max(hidden(g, above, wide, LOWEST), axes=(3,), keepdims=False)
