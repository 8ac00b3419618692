"""Bit planes with scales of their own and an offset: HLQ of ELUTQ (arXiv 2510.19482); T-MAC's have uniform scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nomul.ir.encodings.base import FieldTypes
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.grouped import Grouped, field_part, times
from nomul.ir.encodings.low_bit import Parts, check_codes, one_of
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.tied_planes import check_tied, tie
from nomul.ir.encodings.work import Work


@dataclass(frozen=True)
class Bitplane(Grouped):
    """An offset for every group plus a sum of planes, each a scale for every group times 0 or 1; tied=1: scales and
    offset are integers of eight bits times one scale of the group.

    Parts: bits u8 [planes, N, K], scale f32 [planes, N, G], offset f32 [N, G]. Packed: bits [N, planes, bytes], column
    8 j + t in bit t of byte j; scale [N, planes, G]; offset [N, G], stored as scales are.
    tied=1: scale f32 [N, G], ratio u8 [planes, N, G], base i8 [N, G]; weights are scale * (base + sum of ratio * bit),
    integers from -127 to 127. Packed ratio [N, planes, G].
    `pack`: scales R / (2**bits - 1) * 2**i over the range R of the group, the offset its least weight; with bits=1 the
    two levels are the means of the weights below and above the group's mean."""

    name = "bitplane"
    bits: int = 2
    group: int = 0
    tied: int = 0
    scales: str = "f16"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, allowed in (("bits", (1, 2, 3, 4)), ("tied", (0, 1))):
            if (wrong := one_of(getattr(self, name), *allowed)) is not None:
                raise ValueError(f"{name} {wrong}")

    def default_scales(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        low, high = _two_means(self.grouped(matrix)) if self.bits == 1 else _ends(self.grouped(matrix))
        step = (high - low) / (2**self.bits - 1)
        scale = np.stack([step * 2**plane for plane in range(self.bits)])
        return self.scale_parts(scale, low)

    def scale_parts(self, scale: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
        """The parts that are not bits, as they are stored, for real scales [planes, ...] and offsets [...]."""
        if self.tied:
            return tie(scale, offset, self.rounded)
        return {"scale": self.rounded(scale), "offset": self.rounded(offset, "offset")}

    def real_scales(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """f64 scales [planes, ...] and offsets [...] that parts mean."""
        scale = parts["scale"].astype(np.float64)
        return (scale * parts["ratio"], scale * parts["base"]) if self.tied else (scale, parts["offset"])

    def nearest(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        groups, levels = self.grouped(matrix), self._levels(scales)
        order = levels.argsort(axis=-1, kind="stable").astype(np.uint8)
        levels = np.take_along_axis(levels, order, axis=-1)
        middles = (levels[..., 1:] + levels[..., :-1]) / 2
        ranks = np.zeros(groups.shape, np.uint8)
        for at in range(middles.shape[-1]):
            ranks += groups > middles[..., at, None]
        best = np.take_along_axis(order, ranks, axis=-1)
        planes = best.reshape(matrix.shape) >> np.arange(self.bits, dtype=np.uint8)[:, None, None] & 1
        return {"bits": planes, **scales}

    def _levels(self, scales: Parts) -> np.ndarray:
        """f64 [N, G, codes]: what each code stands for."""
        scale, offset = self.real_scales(scales)
        level = np.repeat(offset.astype(np.float64)[..., None], 2**self.bits, axis=-1)
        codes = np.arange(2**self.bits)
        for plane in range(self.bits):
            level += (codes >> plane & 1) * scale[plane][..., None]
        return level

    def values(self, parts: Parts) -> np.ndarray:
        bits = parts["bits"]
        if self.tied:
            return times(self._codes(parts), parts["scale"])
        total = times(np.ones(bits.shape[1:], np.uint8), parts["offset"])
        for plane in range(self.bits):
            total += times(bits[plane], parts["scale"][plane])
        return total

    def _codes(self, parts: Parts) -> np.ndarray:
        """i8 [N, K]: what bits of tied planes mean, in units of the scale."""
        weighted = self.grouped(parts["bits"]) * parts["ratio"][..., None]
        codes = parts["base"][..., None].astype(np.int16) + weighted.sum(axis=0, dtype=np.int16)
        return codes.astype(np.int8).reshape(parts["bits"].shape[1:])

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        _, columns, _ = self.sizes(shape)
        bits = unpack_bits(packed["bits"], 1, columns).transpose(1, 0, 2)
        if self.tied:
            integers = {"ratio": packed["ratio"].transpose(1, 0, 2).copy(), "base": packed["base"].copy()}
            return {"bits": bits.copy(), "scale": field_part(packed, "scale"), **integers}
        scale = field_part(packed, "scale").transpose(1, 0, 2)
        return {"bits": bits.copy(), "scale": scale.copy(), "offset": field_part(packed, "offset")}

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        self.sizes(shape)
        check_codes(parts["bits"], 0, 1, "bits")
        bits = pack_bits(parts["bits"].transpose(1, 0, 2), 1)
        if self.tied:
            check_tied(parts["ratio"], parts["base"])
            ratio = np.ascontiguousarray(parts["ratio"].transpose(1, 0, 2)).astype(np.uint8)
            base = parts["base"].astype(np.int8)
            return {"bits": bits, "scale": self.stored(parts["scale"]), "ratio": ratio, "base": base}
        return {
            "bits": bits,
            "scale": self.stored(np.ascontiguousarray(parts["scale"].transpose(1, 0, 2))),
            "offset": self.stored(parts["offset"], "offset"),
        }

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        rows, columns, groups = self.sizes(shape)
        bits = (np.dtype(np.uint8), (rows, self.bits, packed_size(columns, 1)))
        if self.tied:
            ratio, base = (np.dtype(np.uint8), (rows, self.bits, groups)), (np.dtype(np.int8), (rows, groups))
            return {"bits": bits, "scale": (self.scale_dtype, (rows, groups)), "ratio": ratio, "base": base}
        return {
            "bits": bits,
            "scale": (self.scale_dtype, (rows, self.bits, groups)),
            "offset": (self.scale_dtype, (rows, groups)),
        }

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...]:
        """A matrix of ones for the offset, then one term for each plane; one in all where planes are tied."""
        parts = self.parts(packed, shape)
        if self.tied:
            return (IntegerTerm(self._codes(parts), parts["scale"]),)
        ones = IntegerTerm(np.ones(parts["bits"].shape[1:], np.int8), parts["offset"])
        planes = zip(parts["bits"].astype(np.int8), parts["scale"], strict=True)
        return (ones, *(IntegerTerm(bits, scale) for bits, scale in planes))

    def work(self, shape: tuple[int, ...]) -> Work:
        """Tables of the sums of four inputs (11 additions each, for all rows), a look-up in them for four weights of a
        plane; and the sum of the inputs, for the offset. Tied: integers multiply these sums, group by group."""
        rows, columns, groups = self.sizes(shape)
        fours = -(-columns // 4)
        lookups = self.bits * rows * fours
        additions = lookups + 11 * fours + columns
        sums = (self.bits + 1) * rows * groups
        if self.tied:
            joined = Work(multiplies=sums, additions=self.bits * rows * groups, scalings=rows * groups)
            return joined + Work(additions=additions, lookups=lookups)
        return Work(additions=additions, lookups=lookups, scalings=sums)


def _ends(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return groups.min(-1), groups.max(-1)


def _two_means(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means of what is at most the mean, and of what is above it (equal where nothing is)."""
    above = groups > groups.mean(-1, keepdims=True)
    counts = np.count_nonzero(above, axis=-1)
    low = (groups * ~above).sum(-1) / (groups.shape[-1] - counts).clip(min=1)
    high = (groups * above).sum(-1) / counts.clip(min=1)
    return low, np.where(counts > 0, high, low)
