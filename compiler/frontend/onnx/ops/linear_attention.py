"""Linear attention of operator set 27: a state that sums products of keys and values, and may shrink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.ops.attention import joined_heads, tokens_first
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.shapes import ONE
from nomul.ir.types import DType

RULES = ("linear", "gated", "delta", "gated_delta")

Operands = tuple[Value, Value, Value]


@onnx_op("LinearAttention")
def linear_attention(n: SourceNode) -> tuple[Value, ...]:
    """All rules, with and without a state."""
    rule = n.attr("update_rule", "gated_delta")
    if rule not in RULES:
        n.unsupported(f"the update rule '{rule}' is not supported", f"rules: {', '.join(RULES)}")
    if any(n.has(index) and n.dtype(index) is not n.dtype() for index in (3, 4)):
        n.unsupported("a state or a decay of another dtype than the queries is not supported")
    queries, groups = n.need_attr("q_num_heads"), n.need_attr("kv_num_heads")
    q, k, v = (tokens_first(n, n.tensor(index), heads) for index, heads in enumerate((queries, groups, groups)))
    scale = n.attr("scale", 0.0) or float(q.shape[3].value or 1) ** -0.5
    if rule.endswith("delta"):
        q, k, v = (n.cast(x, DType.F32) for x in (q, k, v))
        y, *present = _by_delta(n, (n.b.ew.mul(q, scale), k, v), rule == "gated_delta")
        return (n.cast(joined_heads(n, y), n.dtype()), *(n.cast(x, n.dtype()) for x in present))
    decay = _decay(n, k) if rule == "gated" else None
    y = n.b.nn.linear_attention(q, k, v, decay, causal=True, normalise=False)
    total = n.b.reduce.cumsum(decay, axis=1) if decay is not None else None
    if n.has(3):
        y = n.b.ew.add(y, _from_past(n, q, total, groups))
    y = joined_heads(n, n.b.ew.mul(y, scale))
    return (y, _present(n, k, v, total)) if any(n.outputs[1:]) else (y,)


def _decay(n: SourceNode, k: Value) -> Value:
    """Logarithms [B, T, G, D] of what the state shrinks by before each key."""
    decay, groups = n.tensor(4), k.shape[2]
    if decay.shape[2] == groups:
        return n.expand(n.reshape(decay, (*decay.shape, ONE)), k.shape)
    return n.reshape(decay, k.shape)


def _from_past(n: SourceNode, q: Value, total: Value | None, groups: int) -> Value:
    """What queries [B, T, H, D] find in the past state [B, G, D, E], shrunk by all decays up to them."""
    batch, tokens, heads, size = q.shape
    shared, shape = n.divide(heads, groups), (batch, tokens, Dim.of(groups), n.divide(heads, groups), size)
    q = n.reshape(q, shape)
    if total is not None:
        q = n.b.ew.mul(q, n.expand(n.reshape(n.b.ew.exp(total), (batch, tokens, groups, ONE, size)), shape))
    rows = n.reshape(n.transpose(q, (0, 2, 3, 1, 4)), (batch, groups, shared * tokens, size))
    found = n.b.nn.matmul(rows, n.tensor(3))
    wide = found.shape[3]
    found = n.transpose(n.reshape(found, (batch, groups, shared, tokens, wide)), (0, 3, 1, 2, 4))
    return n.reshape(found, (batch, tokens, heads, wide))


def _present(n: SourceNode, k: Value, v: Value, total: Value | None) -> Value:
    """The state [B, G, D, E] behind the last token."""
    b: Any = n.b
    tokens = k.shape[1]
    last = None if total is None else n.slice(total, 1, tokens - 1, tokens)
    if last is not None:
        k = b.ew.mul(k, b.ew.exp(b.ew.sub(last, total)))
    state = b.nn.matmul(n.transpose(k, (0, 2, 3, 1)), n.transpose(v, (0, 2, 1, 3)))
    if not n.has(3):
        return state
    past = n.tensor(3)
    if last is not None:
        past = b.ew.mul(past, n.transpose(b.ew.exp(last), (0, 2, 3, 1)))
    return b.ew.add(state, past)


def _by_delta(n: SourceNode, operands: Operands, is_gated: bool) -> tuple[Value, ...]:
    """(results [B, T, H, E], the state behind the last token where it is asked for), by the delta rule, in f32.

    The past state comes in as tokens in front, one for each of its rows, whose keys are unit vectors; what the state
    holds in the end is what tokens behind the others find whose queries are unit vectors."""
    q, k, v = operands
    batch, tokens, heads, size = q.shape
    groups, width = k.shape[2], v.shape[3]
    rates, unit = _rates(n, k), _unit_vectors(n, q)
    decay = n.cast(_decay(n, k), k.dtype) if is_gated else None
    asked, first = any(n.outputs[1:]), Dim.of(0)
    if n.has(3):
        rows, first = n.transpose(n.cast(n.tensor(3), v.dtype), (0, 2, 1, 3)), size
        ones = n.full((batch, size, groups), 1.0, q.dtype)
        front = (_zeros(n, q, size), n.expand(unit, (batch, size, groups, size)), rows, ones, _zeros(n, decay, size))
        q, k, v, rates, decay = _joined(n, front, (q, k, v, rates, decay))
    if asked:
        ask = n.expand(unit, (batch, size, heads, size))
        behind = (ask, *(_zeros(n, x, size) for x in (k, v, rates, decay)))
        q, k, v, rates, decay = _joined(n, (q, k, v, rates, decay), behind)
    y = n.b.nn.delta_attention(q, k, v, rates, decay)
    results = n.slice(y, 1, first, first + tokens)
    if not asked:
        return (results,)
    found = n.slice(n.slice(y, 1, first + tokens, first + tokens + size), 2, 0, heads, int(heads) // int(groups))
    return results, n.transpose(n.reshape(found, (batch, size, groups, width)), (0, 2, 1, 3))


def _rates(n: SourceNode, k: Value) -> Value:
    """How far each token [B, T, G] corrects the state."""
    if not n.has(5):
        n.unsupported("the delta rule without its rates (beta) is not defined")
    return n.expand(n.cast(n.tensor(5), k.dtype), k.shape[:3])


def _unit_vectors(n: SourceNode, q: Value) -> Value:
    """[1, D, 1, D]"""
    if q.shape[3].value is None:
        n.unsupported(f"the delta rule over heads of dynamic size {q.shape[3]} is not supported")
    return n.weight(np.eye(int(q.shape[3]), dtype=q.dtype.numpy)[None, :, None], "unit")


def _zeros(n: SourceNode, like: Value | None, tokens: Dim) -> Value | None:
    if like is None:
        return None
    return n.full((like.shape[0], tokens, *like.shape[2:]), 0.0, like.dtype)


def _joined(n: SourceNode, first: Sequence[Value | None], second: Sequence[Value | None]) -> list[Any]:
    """Operands for more tokens."""
    pairs = zip(first, second, strict=True)
    return [None if a is None or b is None else n.b.view.concat(a, b, axis=1) for a, b in pairs]
