"""Products of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir.op import Kind, op
from nomul.ir.quantise import LEVELS, dense_weights, product, quantise, verify_act
from nomul.ir.signature import TypeFault, broadcast
from nomul.ir.types import Tensor


@op("nn.linear", Kind.ANCHOR, verify=verify_act)
def linear(
    x: "f[..., K]",
    w: "f[N, K]",
    bias: "f[N] | None" = None,
    *,
    act: Literal["f32", "i8", "i8-static"] = "f32",
    act_scale: float = 0.0,
    act_levels: int = LEVELS,
) -> "f[..., N]":
    """x @ w.T + bias. The encoding of w decides how its elements are stored.
    act="i8": quantise(x) @ w.T, with a scale for each row of x; "i8-static": with act_scale;
    act_levels: the largest integer that it has (`ir/quantise.py`)."""
    if act == "f32":
        y = (x @ dense_weights(w).T).astype(x.dtype, copy=False)  # numpy multiplies bf16 into f32
    else:
        q, scale = quantise(x.reshape(-1, x.shape[-1]), act, act_scale, act_levels)
        y = product(q, scale, w).astype(x.dtype).reshape(*x.shape[:-1], w.shape[0])
    return y if bias is None else y + bias


def infer_matmul(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, y = types
    assert x is not None and y is not None
    if x.rank < 2 or y.rank < 2 or x.shape[-1] != y.shape[-2]:
        raise TypeFault(f"cannot multiply {x} by {y}", 1)
    batch = broadcast(x.shape[:-2], y.shape[:-2], 1)
    return x.with_shape((*batch, x.shape[-2], y.shape[-1]))


@op("nn.matmul", Kind.ANCHOR, infer=infer_matmul)
def matmul(x: "f[_any]", y: "f[_any]") -> "f[..., M, N]":
    """x @ y over the last two axes; leading axes broadcast. Both are activations (a weight on the right: nn.linear)."""
    return np.matmul(x, y).astype(x.dtype, copy=False)
