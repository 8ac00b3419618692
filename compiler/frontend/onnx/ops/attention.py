"""Softmax attention of operator set 23 and newer."""

from __future__ import annotations

from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value
from nomul.ir.types import DType

_KNOWN = {
    "is_causal",
    "kv_num_heads",
    "left_window_size",
    "q_num_heads",
    "qk_matmul_output_mode",
    "right_window_size",
    "scale",
    "softcap",
    "softmax_precision",
}


@onnx_op("Attention")
def attention(n: SourceNode) -> tuple[object, ...]:
    """`nn.attention` where it means the same; the standard's own definition for the rest (scores as a result, ...)."""
    window = _window(n)
    if not _is_plain(n) or window is None:
        return tuple(n.expand_standard())
    q, k, v = (tokens_first(n, n.tensor(index), heads) for index, heads in enumerate(_heads(n)))
    present: tuple[object, ...] = ()
    offset = Dim.of(0)
    if n.has(4):
        offset = n.shape(4)[2]
        k, v = (with_past(n, n.tensor(index), new) for index, new in ((4, k), (5, v)))
    if any(n.outputs[1:3]):
        present = tuple(n.transpose(x, (0, 2, 1, 3)) for x in (k, v))
    rules = {
        "causal": bool(n.attr("is_causal", 0)),
        "softcap": n.attr("softcap", 0.0),
        "window": window,
        "offset": offset,
    }
    scale = n.attr("scale") or float(q.shape[3].value or 1) ** -0.5
    y = n.b.nn.attention(q, k, v, n.optional(3), None, n.optional(6), scale=scale, **rules)
    if n.rank() == 4:
        return (n.transpose(y, (0, 2, 1, 3)), *present)
    return (joined_heads(n, y), *present)


def _window(n: SourceNode) -> int | None:
    """The window of `nn.attention` that means the same as the sizes to the left and the right, or None."""
    left, right = n.attr("left_window_size", -1), n.attr("right_window_size", -1)
    if left < 0 and (right < 0 or n.attr("is_causal", 0)):
        return 0
    return left + 1 if left == right or (n.attr("is_causal", 0) and left >= 0) else None


def _heads(n: SourceNode) -> tuple[int, int, int]:
    shared = n.attr("kv_num_heads", 0)
    return n.attr("q_num_heads", 0), shared, shared


def _is_plain(n: SourceNode) -> bool:
    """Whether `nn.attention` means the same."""
    if not n.attributes.keys() <= _KNOWN or any(n.outputs[3:]) or n.dtype() is not n.dtype(2):
        return False
    size = n.shape()[-1].value
    keys = n.shape(1)[-2 if n.rank(1) == 4 else 1]
    if n.has(4):
        keys = keys + n.shape(4)[2]
    if size is None or (n.has(6) and n.attr("is_causal", 0)):  # there the offset differs from sequence to sequence
        return False
    return not n.has(3) or (n.dtype(3) in (n.dtype(), DType.BOOL) and n.shape(3)[-1] in (keys, Dim.of(1)))


def tokens_first(n: SourceNode, x: Value, heads: int) -> Value:
    """[B, heads, S, D] or [B, S, heads * D] as [B, S, heads, D]."""
    if x.type.rank == 4:
        return n.transpose(x, (0, 2, 1, 3))
    batch, tokens, wide = x.shape
    return n.reshape(x, (batch, tokens, heads, n.divide(wide, heads)))


def joined_heads(n: SourceNode, y: Value) -> Value:
    """[B, S, heads, D] as [B, S, heads * D]."""
    batch, tokens, heads, size = y.shape
    return n.reshape(y, (batch, tokens, heads * size))


def with_past(n: SourceNode, past: Value, new: Value) -> Value:
    """Past keys or values [B, heads, P, D], then new ones [B, T, heads, D], as [B, P + T, heads, D]."""
    return n.b.view.concat(n.transpose(past, (0, 2, 1, 3)), new, axis=1)


@onnx_op("RotaryEmbedding")
def rotary_embedding(n: SourceNode) -> Value:
    """Angles by position, or for each token where there are no positions."""
    x = tokens_first(n, n.tensor(0), n.attr("num_heads", 0))
    cos, sin = n.tensor(1), n.tensor(2)
    if n.has(3):
        cos, sin = (n.b.index.gather(table, n.tensor(3), axis=0) for table in (cos, sin))
    return turned(n, x, cos, sin, bool(n.attr("interleaved", 0)))


def turned(n: SourceNode, x: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """Queries or keys [B, S, heads, D] with their positions, in the form of the node's first operand."""
    y = n.b.nn.rotary(x, cos, sin, interleaved=interleaved)
    return n.transpose(y, (0, 2, 1, 3)) if n.rank() == 4 else joined_heads(n, y)
