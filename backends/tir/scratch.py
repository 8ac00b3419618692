"""Regions of a kernel's scratch memory, one behind the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at

_ALIGNMENT = 64


@dataclass(frozen=True)
class Region:
    """Elements of a buffer from `start` on."""

    buffer: Any
    start: int


class Scratch:
    """bytes: what the regions take so far; the kernel declares them."""

    def __init__(self, frame: KernelFrame) -> None:
        self._frame = frame
        self.bytes = 0

    def region(self, dtype: str, count: int) -> Region:
        """Room for `count` elements."""
        size = np.dtype(dtype).itemsize
        first, self.bytes = self.bytes, self.bytes + -(-count * size // _ALIGNMENT) * _ALIGNMENT
        return Region(buffer_at(f"scratch_{dtype}", dtype, self._frame.scratch), first // size)
