"""Softmax attention with scores in eight bits, and of few queries against many keys."""

from __future__ import annotations

from nomul.ir.graph import Node, Value
from nomul.ir.types import DType
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.expand.terms import need

CHUNK = 128  # keys of a part: their 64 kB (a head of 64 in f32) outweigh what a part writes, and share out well
MOST_QUERIES = 8
_MOST_ROWS = 32  # queries times heads that read one key head
_TILES = 6


class ByteScores(NodeRule):
    """attention with scores = "i8" -> quantised queries and keys, and quantised_attention of these."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if node.attrs["scores"] != "i8":
            return None
        q, k = (g.node("nn.quantise", need(node, position), lead=3).results for position in (0, 1))
        attrs = {name: value for name, value in node.attrs.items() if name != "scores"}
        return g.nn.quantised_attention(*q, *k, *node.args[2:], **attrs)


class FewQueries(NodeRule):
    """attention of at most 8 queries against more than two chunks of keys -> attention_parts, whose kernel splits the
    keys over threads, and attention_merge."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        q, k = need(node, 0), need(node, 1)
        attrs = {name: value for name, value in node.attrs.items() if name not in ("scores", "tile")}
        queries = q.shape[1].value
        if queries is None or queries > MOST_QUERIES or node.attrs["scores"] != "f32" or q.dtype is not DType.F32:
            return None
        if node.operand(_TILES) is not None:
            raise NoMatch("a mask of tiles is not for few queries")
        if queries * (int(q.shape[2]) // int(k.shape[2])) > _MOST_ROWS:
            raise NoMatch(f"more than {_MOST_ROWS} query rows share a key head")
        if q.shape[3].value is None or need(node, 2).shape[3].value is None:
            raise NoMatch("the size of a head is symbolic")
        if int(k.shape[1].bounds(g.module.dims)[1]) <= 2 * CHUNK:
            raise NoMatch(f"at most {2 * CHUNK} keys are one part")
        return g.nn.attention_merge(g.nn.attention_parts(*node.args[:_TILES], chunk=CHUNK, **attrs))
