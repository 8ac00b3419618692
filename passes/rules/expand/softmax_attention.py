"""Softmax attention with scores in eight bits, and of few queries against many keys."""

from __future__ import annotations

from collections.abc import Sequence

from nomul.ir.attention import STORED
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.ops.attention import TILES
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.expand.terms import need

CHUNK = 128  # keys of a part: their 64 kB (a head of 64 in f32) outweigh what a part writes, and share out well
MOST_QUERIES = 8
_MOST_ROWS = 32  # queries times heads that read one key head


class ByteScores(NodeRule):
    """attention with scores = "i8" -> quantised queries and keys, and quantised_attention of these."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if node.attrs["scores"] != "i8" or node.attrs["keys_values"] != "f32":
            return None
        q, k = (g.node("nn.quantise", need(node, position), lead=3).results for position in (0, 1))
        attrs = {name: value for name, value in node.attrs.items() if name not in ("scores", "keys_values")}
        return g.nn.quantised_attention(*q, *k, *node.args[2:], **attrs)


class StoredKeysValues(NodeRule):
    """attention with keys_values = "i8" or "i4" -> the same of keys and values that are quantised and restored; of few
    queries attention_parts, whose kernel reads them as they are stored, two codes of four bits to a byte."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        kind = node.attrs["keys_values"]
        if kind not in STORED:
            return None
        k, v = (g.node("nn.quantise", need(node, i), lead=3, levels=STORED[kind]).results for i in (1, 2))
        codes = [k[0], v[0]]
        if kind == "i4" and _few_refusal(g, node) is None and not any(int(x.shape[3]) % 2 for x in codes):
            codes = [nibbles(g, x) for x in codes]
        return attention_of_codes(g, node, codes, [k[1], v[1]])


def attention_of_codes(g: Rewriter, node: Node, codes: Sequence[Value], scales: Sequence[Value]) -> Value:
    """An attention of keys and values that are stored: as parts, or of what they are restored to."""
    if _few_refusal(g, node) is None:
        return _in_parts(g, node, *codes, *scales)
    k, v = (_restored(g, need(node, 1 + i).dtype, *stored) for i, stored in enumerate(zip(codes, scales, strict=True)))
    return g.nn.attention(node.args[0], k, v, *node.args[3:], **(node.attrs | {"keys_values": "f32"}))


def _restored(g: Rewriter, dtype: DType, codes: Value, scale: Value) -> Value:
    if codes.dtype is DType.U8:
        both, eight = g.ew.cast(codes, dtype=DType.I32), Constant(8, DType.I32)
        high = g.ew.floor_div(both, Constant(16, DType.I32))
        low = g.ew.sub(both, g.ew.mul(high, Constant(16, DType.I32)))
        codes = g.view.concat(g.ew.sub(low, eight), g.ew.sub(high, eight), axis=3)
    wide = g.view.reshape(scale, shape=(*scale.shape, ONE))
    return g.ew.cast(g.ew.mul(g.ew.cast(codes, dtype=DType.F32), wide), dtype=dtype)


def nibbles(g: Rewriter, codes: Value) -> Value:
    """u8 of two codes each along the last axis: the first half of a vector in the low nibbles, plus 8."""
    axis = codes.type.rank - 1
    half = codes.shape[axis].divide_exactly(Dim.of(2))
    parts = [g.view.slice(codes, axis=axis, start=half * i, stop=half * (i + 1)) for i in (0, 1)]
    low, high = (g.ew.cast(part, dtype=DType.I32) for part in parts)
    both = g.ew.add(g.ew.mul(high, Constant(16, DType.I32)), low)
    return g.ew.cast(g.ew.add(both, Constant(8 * 16 + 8, DType.I32)), dtype=DType.U8)


class FewQueries(NodeRule):
    """attention of at most 8 queries against more than two chunks of keys -> attention_parts, whose kernel splits the
    keys over threads, and attention_merge."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if node.attrs["keys_values"] != "f32":
            return None
        refused = _few_refusal(g, node)
        if refused:
            raise NoMatch(refused)
        return None if refused is not None else _in_parts(g, node, need(node, 1), need(node, 2))


def _few_refusal(g: Rewriter, node: Node) -> str | None:
    """Why an attention does not become parts, "" where nobody would expect it, or None."""
    q, k = need(node, 0), need(node, 1)
    queries = q.shape[1].value
    if queries is None or queries > MOST_QUERIES or node.attrs["scores"] != "f32" or q.dtype is not DType.F32:
        return ""
    if node.operand(TILES) is not None:
        return "a mask of tiles is not for few queries"
    if queries * (int(q.shape[2]) // int(k.shape[2])) > _MOST_ROWS:
        return f"more than {_MOST_ROWS} query rows share a key head"
    if q.shape[3].value is None or need(node, 2).shape[3].value is None:
        return "the size of a head is symbolic"
    if int(k.shape[1].bounds(g.module.dims)[1]) <= 2 * CHUNK:
        return f"at most {2 * CHUNK} keys are one part"
    return None


def _in_parts(g: Rewriter, node: Node, *stored: Value) -> Value:
    """stored: keys and values, and their scales where they are codes."""
    k, v, *scales = stored
    attrs = {name: value for name, value in node.attrs.items() if name not in ("scores", "keys_values", "tile")}
    absent = [None] * (TILES - len(node.args[:TILES])) if scales else []
    operands = (node.args[0], k, v, *node.args[3:TILES], *absent, *scales)
    return g.nn.attention_merge(g.nn.attention_parts(*operands, chunk=CHUNK, **attrs))
