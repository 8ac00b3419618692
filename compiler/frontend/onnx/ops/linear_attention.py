"""Linear attention of operator set 27: a state that sums products of keys and values, and may shrink."""

from __future__ import annotations

from typing import Any

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.ops.attention import joined_heads, tokens_first
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.shapes import ONE

RULES = ("linear", "gated")


@onnx_op("LinearAttention")
def linear_attention(n: SourceNode) -> tuple[Value, ...]:
    """The rules "linear" and "gated", with and without a state. "delta" changes what the state holds of each key."""
    rule = n.attr("update_rule", "gated_delta")
    if rule not in RULES:
        n.unsupported(f"the update rule '{rule}' is not supported", f"rules: {', '.join(RULES)}")
    if any(n.has(index) and n.dtype(index) is not n.dtype() for index in (3, 4)):
        n.unsupported("a state or a decay of another dtype than the queries is not supported")
    queries, groups = n.need_attr("q_num_heads"), n.need_attr("kv_num_heads")
    q, k, v = (tokens_first(n, n.tensor(index), heads) for index, heads in enumerate((queries, groups, groups)))
    decay = _decay(n, k) if rule == "gated" else None
    y = n.b.nn.linear_attention(q, k, v, decay, causal=True, normalise=False)
    total = n.b.reduce.cumsum(decay, axis=1) if decay is not None else None
    if n.has(3):
        y = n.b.ew.add(y, _from_past(n, q, total, groups))
    scale = n.attr("scale", 0.0) or float(q.shape[3].value or 1) ** -0.5
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
