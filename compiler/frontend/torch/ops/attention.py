"""Softmax attention. torch keeps heads before tokens, the IR tokens first: transposes stand around it (and cancel)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nomul.frontend.torch.lazy import ONE, Choice, Mask, Uniform, complement, counts_rows
from nomul.frontend.torch.lowering import Lowering, Operand
from nomul.frontend.torch.registry import aten
from nomul.ir.graph import Value
from nomul.ir.types import DType


@aten("scaled_dot_product_attention", lazy=True)
def attention(
    g: Lowering,
    query: Operand,
    key: Operand,
    value: Operand,
    attn_mask: Operand | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: Any = None,
    enable_gqa: bool = False,
) -> Value:
    """[B, H, S, D] operands; leading axes besides B are merged into it."""
    q, k, v = (g.tensor(operand) for operand in (query, key, value))
    if dropout_p:
        raise g.unsupported("dropout in attention is random", "call model.eval() before exporting")
    shape = g.shape()
    size = q.shape[-1].value
    if scale is not None:
        factor = float(g.symbols.number(scale))
    elif size is not None:
        factor = 1 / math.sqrt(size)
    else:
        raise g.unsupported(f"attention over heads of dynamic size {q.shape[-1]} needs a scale")
    mask, causal = _split_mask(g, attn_mask, q.dtype)
    if mask is not None:
        mask = _mask_rank4(g, mask, q.type.rank)
    q, k, v = (g.transpose(_rank4(g, x), (0, 2, 1, 3)) for x in (q, k, v))
    y = g.b.nn.attention(q, k, v, mask, scale=factor, causal=causal or bool(is_causal), name=g.name)
    return g.reshape(g.transpose(y, (0, 2, 1, 3)), shape)


def _rank4(g: Lowering, x: Value) -> Value:
    if x.type.rank == 4:
        return x
    if x.type.rank < 4:
        return g.reshape(x, (ONE,) * (4 - x.type.rank) + x.shape)
    lead = x.shape[0]
    for size in x.shape[1:-3]:
        lead = lead * size
    return g.reshape(x, (lead, *x.shape[-3:]))


def _mask_rank4(g: Lowering, mask: Value, rank: int) -> Value:
    """The mask as [B, H, S, T], with 1 where it repeats."""
    if rank <= 4:
        return g.reshape(mask, (ONE,) * (4 - mask.type.rank) + mask.shape)
    lead = mask.shape[: max(mask.type.rank - 3, 0)]
    if any(size != ONE for size in lead):
        raise g.unsupported("a mask with several leading axes is not supported for attention of rank above 4")
    return g.reshape(mask, (ONE,) * (4 - min(mask.type.rank, 4)) + mask.shape[len(lead[:-1]) :])


def _split_mask(g: Lowering, mask: Operand | None, dtype: DType) -> tuple[Value | None, bool]:
    """(what remains of the mask, whether it also says `key <= query`)."""
    if isinstance(mask, Choice):
        mask = _as_bools(g, mask)
    if isinstance(mask, Uniform) and (mask.number is True or (mask.dtype.is_float and mask.number == 0)):
        return None, False
    if isinstance(mask, Mask):
        rest = tuple(bound for bound in mask.bounds if not counts_rows(bound))
        causal = len(rest) < len(mask.bounds)
        if not rest and mask.tensor is None:
            return None, causal
        return g.compact(Mask(mask.shape, rest, mask.tensor)), causal
    if mask is None:
        return None, False
    value = g.compact(mask)
    return (value if value.dtype is DType.BOOL else g.cast(value, dtype)), False


def _as_bools(g: Lowering, mask: Choice) -> Operand:
    """A mask that adds 0 or minus infinity says who may be seen."""
    if (mask.yes, mask.no) == (0, -np.inf):
        return mask.mask
    hidden = complement(mask.mask, g.ranges) if (mask.yes, mask.no) == (-np.inf, 0) else None
    return mask if hidden is None else hidden
