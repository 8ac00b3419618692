"""Attention, one query of one head at a time: its weights go through scratch."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.attention_span import (
    MASK,
    PARTS,
    QUANTISED,
    RELATIVE,
    SCALES,
    TILES,
    AttentionSpan,
    along,
    main_positions,
    optional_operand,
)
from nomul.backends.emit import Expr, Index, broadcast_index
from nomul.backends.expressions import bind, constant, fma, minus
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.pull import Cell, Line, Pull
from nomul.backends.generic.view import operand_shape
from nomul.backends.storage import rounded
from nomul.ir.dim import Dim
from nomul.ir.graph import Node
from nomul.ir.ops.attention_parts import STATE
from nomul.ir.types import DType


@line("nn.attention")
@line(QUANTISED)
def attention(pull: Pull, node: Node) -> Line:
    """A line is the result's last axis; scratch holds one weight per key, in the type of the scores."""
    keys = operand_shape(node, main_positions(node)[1])[1]
    span = AttentionSpan(node, pull.size)

    def prepare(index: Index) -> Callable[[Index], tuple[Expr, ...]]:
        batch, query, _, _ = index
        weighed = _Weighed(pull, node, index, _seen(pull, span, batch, query), keys, index_constant(0))
        divisor = _divisor(weighed.total.get())
        return lambda place: (bind(weighed.sum(place[3]) / divisor),)

    return Line.along(node.result.shape, 3, prepare)


@line(PARTS)
def attention_parts(pull: Pull, node: Node) -> Line:
    """A line is the result's last axis; scratch holds the weights of a run of keys."""
    chunk, width = node.attrs["chunk"], pull.size(node.result.shape[4] - STATE)
    span = AttentionSpan(node, pull.size)

    def prepare(index: Index) -> Callable[[Index], tuple[Expr, ...]]:
        batch, part, query, head, rest = index
        start = bind(part * chunk)
        first, end = _seen(pull, span, batch, query)
        seen = (bind(tirx.max(first, start)), bind(tirx.min(end, start + chunk)))
        weighed = _Weighed(pull, node, (batch, query, head, rest), seen, Dim.of(chunk), start)

        def step(place: Index) -> tuple[Expr, ...]:
            state = bind(tirx.Select(tirx.EQ(place[4], width), weighed.top.get(), weighed.total.get()))
            return (pull.where(place[4] < width, DType.F32, lambda: weighed.sum(place[4]), state),)

        return step

    return Line.along(node.result.shape, 4, prepare)


@line("nn.attention_merge")
def attention_merge(pull: Pull, node: Node) -> Line:
    """A line is the result's last axis."""
    parts = pull.size(operand_shape(node)[1])
    width = pull.size(operand_shape(node)[4] - STATE)

    def prepare(index: Index) -> Callable[[Index], tuple[Expr, ...]]:
        batch, query, head, _ = index

        def of(part: Expr, place: Expr) -> Expr:
            return pull.operand(node, 0, (batch, part, query, head, place))

        low = tirx.const(_lowest("float32"), "float32")
        top = bind(pull.fold([parts], low, lambda most, at: tirx.max(most, of(at[0], width))))

        def summed(place: Expr) -> Expr:
            def step(sum: Expr, at: Index) -> Expr:
                return fma(of(at[0], place), bind(mathlib.exp(bind(of(at[0], width) - top))), sum)

            return bind(pull.fold([parts], tirx.const(0.0, "float32"), step))

        divisor = _divisor(summed(bind(width + 1)))
        return lambda place: (bind(summed(place[3]) / divisor),)

    return Line.along(node.result.shape, 3, prepare)


def _factor(node: Node, value: Expr) -> Expr:
    """What is multiplied: the value itself, or rounded to bf16."""
    return rounded(bind(value), DType.BF16) if node.attrs.get("scores") == "bf16" else value


def _stored(pull: Pull, node: Node, position: int, place: Index) -> Expr:
    """An element of queries, keys or values; of those that are stored as codes, code * scale."""
    if node.op != PARTS or position == 0 or node.operand(SCALES) is None:
        return pull.operand(node, position, place)
    *row, last = place
    value = node.args[position]
    assert value is not None
    if value.dtype is DType.U8:
        half = pull.size(operand_shape(node, position)[3])
        in_low = bind(last < half)
        byte = pull.operand(node, position, (*row, bind(tirx.Select(in_low, last, last - half))))
        wide = bind(tirx.Cast("int32", byte))
        code = tirx.Select(in_low, tirx.bitwise_and(wide, 15), tirx.shift_right(wide, tirx.const(4, "int32"))) - 8
    else:
        code = pull.operand(node, position, place)
    return bind(tirx.Cast("float32", bind(code)) * pull.operand(node, SCALES + position - 1, tuple(row)))


def _divisor(total: Expr) -> Expr:
    """A total of weights; 1 where nothing is seen, whose sums are 0."""
    return bind(tirx.Select(tirx.EQ(total, constant(total, 0.0)), constant(total, 1.0), total))


def _seen(pull: Pull, span: AttentionSpan, batch: Expr, query: Expr) -> tuple[Expr, Expr]:
    """The run of keys that a query sees."""
    length = None
    if span.lengths is not None:
        length = pull.element(span.lengths, (along(span.lengths, 0, batch),))
    return bind(span.first(query)), span.end(query, length)


class _Weighed:
    """The weights of a run of keys for one query of one head, in scratch: exp(score - top), and their total.

    keys: how many there can be; their weights stand from place 0 on, that of `start`."""

    def __init__(self, pull: Pull, node: Node, index: Index, seen: tuple[Expr, Expr], keys: Dim, start: Expr) -> None:
        self.pull, self.node, self.seen, self.start = pull, node, seen, start
        dtype = pull.type(node.result.dtype)
        positions = main_positions(node)
        heads, key_heads = (int(operand_shape(node, position)[2]) for position in positions[:2])
        self.batch, _, head, _ = index
        self.key_head = bind(tirx.truncdiv(head, index_constant(heads // key_heads)))
        self.values = positions[2]
        self.weights = pull.strip(dtype, keys)
        self.top = Cell(tirx.const(_lowest(dtype), dtype))
        self.total = Cell(tirx.const(0.0, dtype))
        with pull.loops(seen) as (t,):
            score = _score(pull, node, index, self.key_head, t)
            self.weights.write(t - start, score)
            self.top.set(tirx.Select(score > self.top.get(), score, self.top.get()))
        with pull.loops(seen) as (t,):
            weight = bind(mathlib.exp(bind(minus(self.weights.read(t - start), self.top.get()))))
            self.weights.write(t - start, _factor(node, weight))
            self.total.set(self.total.get() + weight)

    def sum(self, place: Expr) -> Expr:
        """Of values at a place of the head, by weight."""

        def weighted(sum: Expr, inner: Index) -> Expr:
            value = _stored(self.pull, self.node, self.values, (self.batch, inner[0], self.key_head, place))
            value = _factor(self.node, value)
            return fma(self.weights.read(inner[0] - self.start), value, sum)

        return bind(self.pull.fold([self.seen], tirx.const(0.0, self.top.get().ty.dtype), weighted))


def _lowest(dtype: str) -> float:
    return -3.4028234663852886e38 if dtype == "float32" else -1.7976931348623157e308


def _score(pull: Pull, node: Node, index: Index, key_head: Expr, t: Expr) -> Expr:
    """q . k * scale, capped, with the masks and the bias applied."""
    batch, query, head, _ = index
    product = _byte_product if node.op == QUANTISED else _product
    score = product(pull, node, index, key_head, t)
    cap = node.attrs["softcap"]
    if cap:
        score = bind(mathlib.tanh(bind(score / constant(score, cap))) * constant(score, cap))
    hidden = constant(score, -math.inf)
    mask, relative, tiles = (optional_operand(node, position) for position in (MASK, RELATIVE, TILES))
    if mask is not None:
        seen = pull.element(mask, broadcast_index((batch, head, query, t), mask.shape))
        score = bind(tirx.Select(seen, score, hidden) if mask.dtype is DType.BOOL else score + seen)
    if relative is not None:
        distance = bind(t - query + (pull.size(operand_shape(node)[1]) - 1))
        score = bind(score + pull.element(relative, (along(relative, 0, head), distance)))
    if tiles is not None:
        size = index_constant(node.attrs["tile"])
        outer = (along(tiles, 0, batch), along(tiles, 1, head))
        kept = pull.element(tiles, (*outer, bind(tirx.truncdiv(query, size)), bind(tirx.truncdiv(t, size))))
        score = bind(tirx.Select(kept, score, hidden))
    return score


def _product(pull: Pull, node: Node, index: Index, key_head: Expr, t: Expr) -> Expr:
    """q . k * scale."""
    batch, query, head, _ = index

    def step(sum: Expr, inner: Index) -> Expr:
        places = (batch, query, head, inner[0]), (batch, t, key_head, inner[0])
        q, k = (_factor(node, _stored(pull, node, position, place)) for position, place in enumerate(places))
        return fma(q, k, sum)

    zero = tirx.const(0.0, pull.type(node.result.dtype))
    score = bind(pull.fold([pull.size(operand_shape(node)[3])], zero, step))
    return bind(score * constant(score, node.attrs["scale"]))


def _byte_product(pull: Pull, node: Node, index: Index, key_head: Expr, t: Expr) -> Expr:
    """f32(sum of integers) * (q_scale * scale) * k_scale."""
    batch, query, head, _ = index

    def step(sum: Expr, inner: Index) -> Expr:
        places = (batch, query, head, inner[0]), (batch, t, key_head, inner[0])
        q, k = (pull.operand(node, 2 * i, place) for i, place in enumerate(places))
        return sum + tirx.Cast("int32", q) * tirx.Cast("int32", k)

    sum = bind(pull.fold([pull.size(operand_shape(node)[3])], tirx.const(0, "int32"), step))
    of_query, of_key = (
        pull.operand(node, 1 + 2 * i, (batch, *at)) for i, at in enumerate([(query, head), (t, key_head)])
    )
    by_query = bind(of_query * constant(of_query, node.attrs["scale"]))
    return bind(tirx.Cast(pull.type(node.result.dtype), bind(bind(tirx.Cast("float32", sum) * by_query) * of_key)))
