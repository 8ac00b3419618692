"""Convolution weights [O, I, KH, KW] as panels of 32 output channels, [ceil(O / 32), KH * KW * I, 32] (see `panel32`):
channels of one tap stand together, as in an nhwc image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nomul.backends.layouts.panel32 import panels


def pack(fields: Mapping[str, np.ndarray], shape: tuple[int, ...], groups: int = 1) -> dict[str, np.ndarray]:
    """fields: `data` [O, I, KH, KW] of any element type. shape: (O, I, KH, KW).

    groups: output channels are in so many groups, one behind the other; no panel is shared by two."""
    weights = fields["data"].reshape(shape).transpose(0, 2, 3, 1).reshape(shape[0], -1)
    return {"data": np.concatenate([panels(part) for part in np.split(weights, groups)])}
