"""The Walsh-Hadamard transform: a rotation that needs additions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nomul.ir.numerics import wide
from nomul.ir.op import op
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor


def check_block(types: Sequence[Tensor | None], attrs: Mapping[str, Any]) -> None:
    """A verify hook: `block` is a power of two that divides the last axis."""
    x, block = types[0], attrs["block"]
    assert x is not None
    size = x.shape[-1].value if x.rank else None
    if block < 2 or block & (block - 1):
        raise TypeFault(f"block={block} is no power of two from 2 on")
    if size is None or size % block:
        raise TypeFault(f"block={block} does not divide the last axis of {x}", 0)


def rotated(x: np.ndarray, block: int) -> np.ndarray:
    """Each run of `block` neighbours on the last axis times the Hadamard matrix of Sylvester's order over
    sqrt(block). That is a rotation, and its own inverse. In butterflies, the distance doubling from 1."""
    y = x.reshape(-1, block)
    step = 1
    while step < block:
        pairs = y.reshape(-1, block // (2 * step), 2, step)
        y = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        step *= 2
    return (y.reshape(-1, block) * y.dtype.type(1 / np.sqrt(block))).reshape(x.shape)


@op("nn.hadamard", verify=check_block)
def hadamard(x: "f[..., D]", *, block: int) -> "like x":
    """Each run of `block` (a power of two) neighbours on the last axis times the Hadamard matrix over sqrt(block)."""
    return rotated(wide(x), block).astype(x.dtype)
