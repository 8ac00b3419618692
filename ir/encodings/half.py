"""16-bit floats: `f16` (IEEE half: 11 significant bits, up to 65504), `bf16` (8 significant bits, f32's range)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np

from nomul.ir.encodings.base import Encoding, FieldTypes


@dataclass(frozen=True)
class SixteenBit(Encoding):
    """Weights rounded to a float format of two bytes."""

    dtype: ClassVar[np.dtype]

    def pack(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Raises ValueError where a finite weight is outside the format's range."""
        with np.errstate(over="ignore"):
            data = array.astype(self.dtype)
        if not np.array_equal(np.isfinite(data.astype(np.float32)), np.isfinite(array)):
            raise ValueError(f"a weight is too large for {self.name} (largest magnitude {np.abs(array).max():g})")
        return {"data": data}

    def unpack(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
        return packed["data"].astype(np.float32).reshape(shape)

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        return {"data": (self.dtype, shape)}


@dataclass(frozen=True)
class F16(SixteenBit):
    """IEEE 754 binary16."""

    name = "f16"
    dtype = np.dtype(np.float16)


@dataclass(frozen=True)
class BF16(SixteenBit):
    """The upper sixteen bits of f32, rounded to nearest even."""

    name = "bf16"
    dtype = np.dtype(ml_dtypes.bfloat16)
