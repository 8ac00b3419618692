"""Attention operators of `com.microsoft`, which onnxruntime's optimisers and its model builder write."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.ops.attention import joined_heads, tokens_first, turned, with_past
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.shapes import ONE
from nomul.ir.types import DType

microsoft_op = partial(onnx_op, domain="com.microsoft")

Operands = tuple[Value, Value, Value]


@microsoft_op("MultiHeadAttention")
def multi_head_attention(n: SourceNode) -> tuple[Value, ...]:
    """Separate or packed q, k, v, a bias for the three joined, a padding mask, an additive mask, past keys."""
    q, k, v = _operands(n, n.need_attr("num_heads"))
    offset = Dim.of(0)
    present: tuple[Value, ...] = ()
    if n.has(6):
        offset = n.shape(6)[2]
        k, v = (with_past(n, n.tensor(index), new) for index, new in ((6, k), (7, v)))
    if any(n.outputs[1:]):
        present = tuple(n.transpose(x, (0, 2, 1, 3)) for x in (k, v))
    mask, lengths = _padding(n, k.shape[1])
    if n.has(5):
        mask = n.tensor(5) if mask is None else n.b.ew.where(mask, n.tensor(5), float("-inf"))
    scale = n.attr("scale") or float(q.shape[3].value or 1) ** -0.5
    rules = {"causal": bool(n.attr("unidirectional", 0)), "offset": offset}
    return (joined_heads(n, n.b.nn.attention(q, k, v, mask, None, lengths, scale=scale, **rules)), *present)


def _operands(n: SourceNode, heads: int) -> Operands:
    """q, k, v as [B, tokens, heads, size]."""
    if any(n.outputs[3:]) or n.has(9):
        n.unsupported("scores as a result, and cache indirection, are not supported")
    if not n.has(1) or not n.has(2):
        packed = n.tensor(1 if n.has(1) else 0)
        if packed.type.rank != 5 or n.has(3):
            n.unsupported("an absent value needs keys and values packed as [B, T, heads, 2, size], without a bias")
        parts = [n.slice(packed, 3, i, i + 1) for i in range(int(packed.shape[3]))]
        found = [n.reshape(part, (*part.shape[:3], part.shape[4])) for part in parts]
        found = found if len(found) == 3 else [tokens_first(n, n.tensor(0), heads), *found]
        return found[0], found[1], found[2]
    start, operands = Dim.of(0), []
    for index in range(3):
        x = n.tensor(index)
        if n.has(3):
            wide = n.shape(index)[2] if n.rank(index) == 3 else n.shape(index)[1] * n.shape(index)[3]
            if n.rank(index) != 3:
                n.unsupported("a bias for keys that are split into heads is not supported")
            x = n.b.ew.add(x, n.slice(n.tensor(3), 0, start, start + wide))
            start = start + wide
        operands.append(tokens_first(n, x, heads))
    return operands[0], operands[1], operands[2]


def _padding(n: SourceNode, keys: Dim) -> tuple[Value | None, Value | None]:
    """(a bool mask, lengths) of the padding mask: one length for each sequence, or 0 for each key that is padding."""
    if not n.has(4):
        return None, None
    if n.rank(4) == 1 and n.shape(4)[0] == n.shape()[0]:
        return None, n.tensor(4)
    if n.rank(4) not in (2, 3) or n.shape(4)[-1] != keys:
        n.unsupported(f"a padding mask {n.tensor(4).type} is not supported")
    mask = n.b.ew.cast(n.tensor(4), dtype=DType.BOOL)
    return n.reshape(mask, (mask.shape[0], ONE, ONE if mask.type.rank == 2 else mask.shape[1], keys)), None


@microsoft_op("GroupQueryAttention")
def group_query_attention(n: SourceNode) -> tuple[Value, ...]:
    """Causal attention of grouped heads. Past keys may be those of a buffer that is longer than what it holds: how many
    count is known at run time. Present keys are all of the past ones, then the new ones."""
    if n.attr("smooth_softmax", 0) > 0 or n.has(11) or any(n.outputs[3:]):
        n.unsupported("attention sinks, and scores as a result, are not supported")
    if n.attr("kv_cache_bit_width", 0) or n.attr("qk_output", 0):
        n.unsupported("quantised past keys are not supported")
    q, k, v = _grouped(n)
    past = n.shape(3)[2] if n.has(3) else Dim.of(0)
    if past != 0 and n.shape()[0] != ONE:
        n.unsupported("past keys of several sequences may end at different places", "export the model for a batch of 1")
    total = n.b.ew.add(n.reshape(n.tensor(5), (q.shape[0],)), 1)
    if n.attr("do_rotary", 0):
        positions = n.tensor(9) if n.has(9) else _positions(n, q.shape[1], total if past != 0 else None)
        cos, sin = (n.b.index.gather(n.tensor(index), positions, axis=0) for index in (7, 8))
        interleaved = bool(n.attr("rotary_interleaved", 0))
        q, k = (n.b.nn.rotary(x, cos, sin, interleaved=interleaved) for x in (q, k))
    if past != 0:
        k, v = (with_past(n, n.tensor(index), new) for index, new in ((3, k), (4, v)))
    window = max(n.attr("local_window_size", -1), 0)
    rules = {"offset": past, "window": window if past == 0 else 0, "softcap": n.attr("softcap", 0.0)}
    scale = n.attr("scale") or float(q.shape[3].value or 1) ** -0.5
    mask, lengths = n.optional(10), total
    if past != 0:
        seen, lengths = _held(n, total, q.shape[1], past, window), None
        mask = seen if mask is None else n.b.ew.where(seen, mask, float("-inf"))
    y = n.b.nn.attention(q, k, v, mask, None, lengths, scale=scale, causal=True, **rules)
    present = tuple(n.transpose(x, (0, 2, 1, 3)) for x in (k, v)) if any(n.outputs[1:3]) else ()
    return (joined_heads(n, y), *present)


def _positions(n: SourceNode, queries: Dim, total: Value | None) -> Value:
    """Places of the new tokens [1, S], the last ones of `total`, or the first ones."""
    counter = n.b.make.iota(size=queries)
    if total is not None:
        counter = n.b.ew.add(counter, n.b.ew.sub(n.b.ew.cast(total, dtype=DType.I64), n.b.make.size(size=queries)))
    return n.reshape(counter, (ONE, queries))


def _held(n: SourceNode, total: Value, queries: Dim, past: Dim, window: int) -> Value:
    """Which keys are held [1, 1, 1 or S, P + S]: of the past ones the first `total` - S, and all new ones; with a
    window only those that are less than it before a query."""
    first = n.reshape(_positions(n, queries, total), (ONE, ONE, queries, ONE))
    start = n.slice(first, 2, 0, 1)
    keys = n.reshape(n.b.make.iota(size=past + queries), (ONE, ONE, ONE, past + queries))
    is_new = n.b.ew.ge(keys, n.b.make.size(size=past))
    seen = n.b.ew.or_(n.b.ew.lt(keys, start), is_new)
    if window:
        places = n.b.ew.where(is_new, n.b.ew.add(n.b.ew.sub(keys, n.b.make.size(size=past)), start), keys)
        seen = n.b.ew.and_(seen, n.b.ew.lt(n.b.ew.sub(first, places), window))
    return seen


def _grouped(n: SourceNode) -> Operands:
    """q, k, v as [B, S, heads, size], packed in one operand or not."""
    heads, groups = n.need_attr("num_heads"), n.need_attr("kv_num_heads")
    if n.has(1):
        return (
            tokens_first(n, n.tensor(0), heads),
            tokens_first(n, n.tensor(1), groups),
            tokens_first(n, n.tensor(2), groups),
        )
    all_heads = tokens_first(n, n.tensor(0), heads + 2 * groups)
    bounds = (0, heads, heads + groups, heads + 2 * groups)
    q, k, v = (n.slice(all_heads, 2, start, stop) for start, stop in pairwise(bounds))
    return q, k, v


@microsoft_op("RotaryEmbedding")
def rotary_embedding(n: SourceNode) -> Value:
    """Positions are given, or the first one is."""
    if n.attr("is_packed_batching", 0) or n.attr("scale", 1.0) != 1.0:
        n.unsupported("packed batches and scaled angles are not supported")
    cos, sin = n.tensor(2), n.tensor(3)
    wide = n.shape()[2]
    heads = n.attr("num_heads", 0) or (wide.divide_exactly(cos.shape[1] * 2) if n.rank() == 3 else 0)
    x = tokens_first(n, n.tensor(0), int(heads))
    positions = n.tensor(1)
    if n.rank(1) == 1:
        positions = n.reshape(
            n.b.ew.add(n.b.make.iota(size=x.shape[1]), n.b.ew.cast(positions, dtype=DType.I64)), (1, x.shape[1])
        )
    cos, sin = (n.b.index.gather(table, positions, axis=0) for table in (cos, sin))
    return turned(n, x, cos, sin, bool(n.attr("interleaved", 0)))
