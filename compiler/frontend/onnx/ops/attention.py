"""Softmax attention of operator set 23 and newer."""

from __future__ import annotations

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType

_KNOWN = {"is_causal", "kv_num_heads", "q_num_heads", "scale", "softcap", "softmax_precision", "qk_matmul_output_mode"}


@onnx_op("Attention")
def attention(n: SourceNode) -> tuple[object, ...]:
    """`nn.attention` in its usual form; the standard's own definition for the rest (softcap, ...)."""
    if not _is_plain(n):
        return tuple(n.expand_standard())
    q, k, v = (tokens_first(n, n.tensor(index), heads) for index, heads in enumerate(_heads(n)))
    present: tuple[object, ...] = ()
    if n.has(4):
        k, v = (_with_past(n, n.tensor(index), new) for index, new in ((4, k), (5, v)))
    if any(n.outputs[1:3]):
        present = tuple(n.transpose(x, (0, 2, 1, 3)) for x in (k, v))
    scale = n.attr("scale") or float(q.shape[3].value or 1) ** -0.5
    y = n.b.nn.attention(q, k, v, n.optional(3), scale=scale, causal=bool(n.attr("is_causal", 0)))
    if n.rank() == 4:
        return (n.transpose(y, (0, 2, 1, 3)), *present)
    batch, queries, heads, size = y.shape
    return (n.reshape(y, (batch, queries, heads * size)), *present)


def _heads(n: SourceNode) -> tuple[int, int, int]:
    shared = n.attr("kv_num_heads", 0)
    return n.attr("q_num_heads", 0), shared, shared


def _is_plain(n: SourceNode) -> bool:
    """Whether `nn.attention` means the same."""
    if (
        not n.attributes.keys() <= _KNOWN
        or n.attr("softcap", 0.0)
        or n.has(6)
        or any(n.outputs[3:])
        or n.dtype() is not n.dtype(2)
    ):
        return False
    size = n.shape()[-1].value
    keys = n.shape(1)[-2 if n.rank(1) == 4 else 1]
    if n.has(4):
        keys = keys + n.shape(4)[2]
    if size is None or (n.has(4) and n.attr("is_causal", 0)):
        return False
    return not n.has(3) or (n.dtype(3) in (n.dtype(), DType.BOOL) and n.shape(3)[-1] in (keys, Dim.of(1)))


def tokens_first(n: SourceNode, x: Value, heads: int) -> Value:
    """[B, heads, S, D] or [B, S, heads * D] as [B, S, heads, D]."""
    if x.type.rank == 4:
        return n.transpose(x, (0, 2, 1, 3))
    batch, tokens, wide = x.shape
    return n.reshape(x, (batch, tokens, heads, n.divide(wide, heads)))


def _with_past(n: SourceNode, past: Value, new: Value) -> Value:
    return n.b.view.concat(n.transpose(past, (0, 2, 1, 3)), new, axis=1)
