"""Depthwise convolution weights [C, 1, KH, KW] in blocks of 16 channels, [ceil(C / 16), KH * KW, 16], zero where C
ends: one tap of a block is one row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

BLOCK = 16


def pack(fields: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """fields: `data` [C, 1, KH, KW] of any element type. shape: (C, 1, KH, KW)."""
    channels, taps = shape[0], shape[2] * shape[3]
    padded = np.zeros((-(-channels // BLOCK) * BLOCK, taps), fields["data"].dtype)
    padded[:channels] = fields["data"].reshape(channels, taps)
    return {"data": np.ascontiguousarray(padded.reshape(-1, BLOCK, taps).transpose(0, 2, 1))}
