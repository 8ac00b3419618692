"""Weights [I, O, KH, KW] of a transposed convolution, phase by phase: output pixels whose place has the same remainder
by the strides use the same taps. Each phase (row remainder outer) is `panel32` of [O, taps of the phase * I], its taps
in the order in which the input pixels that they meet stand in memory (so the last tap comes first)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nomul.backends.layouts.panel32 import panels


def pack(
    fields: Mapping[str, np.ndarray], shape: tuple[int, ...], stride_h: int, stride_w: int
) -> dict[str, np.ndarray]:
    """fields: `data` [I, O, KH, KW] of any element type. shape: (I, O, KH, KW)."""
    weights = fields["data"].reshape(shape).transpose(1, 2, 3, 0)
    phases = [weights[:, row::stride_h, column::stride_w] for row in range(stride_h) for column in range(stride_w)]
    parts = [panels(phase[:, ::-1, ::-1].reshape(shape[1], -1)).ravel() for phase in phases]
    return {"data": np.concatenate(parts)}
