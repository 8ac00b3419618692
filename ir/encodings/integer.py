"""Integers times a scale: `int8`, `int4`, symmetric or with a zero point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nomul.ir.encodings.base import FieldTypes
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.grouped import Grouped, divided, field_part, times
from nomul.ir.encodings.low_bit import Parts, check_codes, one_of
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.work import Work, dense_work


@dataclass(frozen=True)
class _Integer(Grouped):
    """w = scale * (code - zero). Parts: codes i8 [N, K], scale f32 [N, G], and with zero=1 zero i8 [N, G].

    Packed: codes and zero points as unsigned fields of `bits` bits (value + 2**(bits - 1)), scales as `scales` says.
    `pack` takes the smallest scale that clips nothing."""

    zero: int = 0
    group: int = 0
    scales: str = "f16"
    bits: ClassVar[int]
    symmetric: ClassVar[tuple[int, int]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if (wrong := one_of(self.zero, 0, 1)) is not None:
            raise ValueError(f"zero {wrong}")

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest code."""
        half = 1 << (self.bits - 1)
        return (-half, half - 1) if self.zero else self.symmetric

    def default_scales(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        groups, (least, most) = self.grouped(matrix), self.limits
        low, high = groups.min(-1).clip(max=0), groups.max(-1).clip(min=0)
        if not self.zero:
            return {"scale": self.rounded(np.maximum(high / most, low / least))}
        scale = self.rounded((high - low) / (most - least))
        zero = np.rint(least - divided(low[..., None], scale)[..., 0]).clip(least, most)
        return {"scale": scale, "zero": np.where(scale > 0, zero, 0).astype(np.int8)}

    def nearest(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        codes = np.rint(divided(self.grouped(matrix), scales["scale"]))
        if self.zero:
            codes += scales["zero"][..., None]
        return {"codes": codes.clip(*self.limits).astype(np.int8).reshape(matrix.shape), **scales}

    def values(self, parts: Parts) -> np.ndarray:
        return times(self._differences(parts), parts["scale"])

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        _, columns, groups = self.sizes(shape)
        parts = {"codes": self._signed(packed["codes"], columns), "scale": field_part(packed, "scale")}
        return parts | ({"zero": self._signed(packed["zero"], groups)} if self.zero else {})

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        self.sizes(shape)
        packed = {"codes": self._unsigned(parts["codes"]), "scale": self.stored(parts["scale"])}
        return packed | ({"zero": self._unsigned(parts["zero"])} if self.zero else {})

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        rows, columns, groups = self.sizes(shape)
        u8 = np.dtype(np.uint8)
        types: FieldTypes = {
            "codes": (u8, (rows, packed_size(columns, self.bits))),
            "scale": (self.scale_dtype, (rows, groups)),
        }
        return types | ({"zero": (u8, (rows, packed_size(groups, self.bits)))} if self.zero else {})

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...]:
        parts = self.parts(packed, shape)
        return (IntegerTerm(self._differences(parts), parts["scale"]),)

    def work(self, shape: tuple[int, ...]) -> Work:
        rows, _, groups = self.sizes(shape)
        return dense_work(shape) + Work(scalings=rows * groups)

    def _differences(self, parts: Parts) -> np.ndarray:
        if not self.zero:
            return parts["codes"]
        groups = self.grouped(parts["codes"].astype(np.int16)) - parts["zero"][..., None]
        return groups.reshape(parts["codes"].shape)

    def _unsigned(self, codes: np.ndarray) -> np.ndarray:
        check_codes(codes, *self.limits)
        return pack_bits(codes.astype(np.int16) + (1 << (self.bits - 1)), self.bits)

    def _signed(self, packed: np.ndarray, count: int) -> np.ndarray:
        return (unpack_bits(packed, self.bits, count).astype(np.int16) - (1 << (self.bits - 1))).astype(np.int8)


@dataclass(frozen=True)
class Int8(_Integer):
    """Eight-bit integers, -127 to 127 (with zero=1: -128 to 127, less a zero point), times a scale for each group."""

    name = "int8"
    bits = 8
    symmetric = (-127, 127)


@dataclass(frozen=True)
class Int4(_Integer):
    """Four-bit integers, -8 to 7 (with zero=1 less a zero point), times a scale for each group."""

    name = "int4"
    bits = 4
    symmetric = (-8, 7)
