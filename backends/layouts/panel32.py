"""Weights [N, K] as panels of 32 output columns, [ceil(N / 32), K, 32], zero where N ends: row k of a panel is what one
step of the inner kernel multiplies with element k of a row of A."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

PANEL = 32


def pack(fields: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """fields: `data` [N, K] of any element type. shape: (N, K)."""
    return {"data": panels(fields["data"].reshape(shape))}


def panels(matrix: np.ndarray) -> np.ndarray:
    """[N, K] -> [ceil(N / 32), K, 32]."""
    rows, depth = matrix.shape
    count = -(-rows // PANEL)
    padded = np.zeros((count * PANEL, depth), matrix.dtype)
    padded[:rows] = matrix
    return np.ascontiguousarray(padded.reshape(count, PANEL, depth).transpose(0, 2, 1))
