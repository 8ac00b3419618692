"""Ternary planes: weights as a sum of scales times -1, 0 or 1 (PTQTP, arXiv 2509.16989; Sherry, arXiv 2601.07892)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import lcm

import numpy as np

from nomul.ir.encodings import three_of_four
from nomul.ir.encodings.base import FieldTypes
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.grouped import Grouped, divided, field_part, times
from nomul.ir.encodings.low_bit import Parts, check_codes, one_of
from nomul.ir.encodings.sweep import swept_scale
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.work import Work

_POWERS = 3 ** np.arange(5)


@dataclass(frozen=True)
class Ternary(Grouped):
    """A sum of planes, each a scale for every group times -1, 0 or 1; tied=1: one scale, and planes weigh 3 and 1.

    Parts: trits i8 [planes, N, K]; scale f32 [planes, N, G] (tied: [1, N, G], planes weigh (9,) 3, 1).
    Packed trits [N, planes, bytes] by `pack`: 2bit (trit + 1 in two bits), base3 (five to a byte, the first the least
    digit), 3of4 (exactly one zero in each four columns: five bits for four, `three_of_four.py`); scale [N, planes, G].
    The method `pack`: planes one after another, each the ternary weight network of what is left (threshold 0.7 of the
    mean magnitude; 3of4: the three largest of four); tied: the scale of least error in a sweep."""

    name = "ternary"
    planes: int = 1
    group: int = 0
    pack_: str = "2bit"
    tied: int = 0
    scales: str = "f16"

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = {"planes": (1, 2, 3), "pack_": ("2bit", "base3", "3of4"), "tied": (0, 1)}
        for name, values in allowed.items():
            if (wrong := one_of(getattr(self, name), *values)) is not None:
                raise ValueError(f"{name.removesuffix('_')} {wrong}")
        if self.tied and (self.planes == 1 or self.pack_ == "3of4"):
            raise ValueError("tied=1 needs two or three planes and pack=2bit or base3")

    @property
    def block(self) -> int:
        return lcm(self.group, 4) if self.pack_ == "3of4" else self.group

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        rows, columns, groups = super().sizes(shape)
        if self.pack_ == "3of4" and columns % 4:
            raise ValueError(f"pack=3of4 needs columns in fours, but there are {columns}")
        return rows, columns, groups

    # -- choosing ----------------------------------------------------------------------------------------------
    def default_scales(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        self.sizes(matrix.shape)
        if self.tied:
            return {"scale": self.rounded(swept_scale(self.grouped(matrix), _tied_limit(self.planes)))[None]}
        scales, left = [], matrix
        for _ in range(self.planes):
            groups = self.grouped(np.abs(left))
            if self.pack_ == "3of4":
                kept = self.grouped(three_of_four.keep_three(left))
            else:
                kept = groups > 0.7 * groups.mean(-1, keepdims=True)
            scales.append(self.rounded((groups * kept).sum(-1) / kept.sum(-1).clip(min=1)))
            left = left - times(self._plane(left, scales[-1]), scales[-1])
        return {"scale": np.stack(scales)}

    def nearest(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        """3of4 with several planes: plane by plane, the nearest to what is left."""
        scale = scales["scale"]
        if self.tied:
            limit = _tied_limit(self.planes)
            codes = np.rint(divided(self.grouped(matrix), scale[0])).clip(-limit, limit).astype(np.int8)
            return {"trits": _balanced_digits(codes.reshape(matrix.shape), self.planes), **scales}
        best, least = np.zeros((self.planes, *matrix.shape), np.int8), np.full(matrix.shape, np.inf)
        options = (None,) if self.pack_ == "3of4" else (0, -1, 1)
        for head in product(options, repeat=self.planes - 1):
            trits = self._completed(matrix, scale, head)
            error = np.abs(matrix - self.values({"trits": trits, "scale": scale}).astype(np.float64))
            better = error < least
            least, best = np.where(better, error, least), np.where(better, trits, best)
        return {"trits": best, **scales}

    def _completed(self, matrix: np.ndarray, scale: np.ndarray, head: tuple[int | None, ...]) -> np.ndarray:
        """All planes: the same trit everywhere in the first ones (None: what is nearest), the nearest in the last."""
        planes, left = [], matrix
        for plane, trit in enumerate((*head, None)):
            trits = self._plane(left, scale[plane]) if trit is None else np.full(matrix.shape, trit, np.int8)
            planes.append(trits)
            left = left - times(trits, scale[plane]).astype(np.float64)
        return np.stack(planes)

    def _plane(self, left: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """The trits of one plane that come nearest."""
        ratio = divided(self.grouped(left), scale).reshape(left.shape)
        if self.pack_ == "3of4":
            return np.where(three_of_four.keep_three(left), np.where(ratio < 0, -1, 1), 0).astype(np.int8)
        return (np.sign(ratio) * (np.abs(ratio) > 0.5)).astype(np.int8)

    def values(self, parts: Parts) -> np.ndarray:
        trits, scale = parts["trits"], parts["scale"]
        if self.tied:
            return times(_tied_codes(trits), scale[0])
        total = times(trits[0], scale[0])
        for plane in range(1, self.planes):
            total += times(trits[plane], scale[plane])
        return total

    # -- bytes -------------------------------------------------------------------------------------------------
    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        _, columns, _ = self.sizes(shape)
        trits = self._unpacked(packed["trits"], columns).transpose(1, 0, 2)
        return {"trits": np.ascontiguousarray(trits), "scale": field_part(packed, "scale").transpose(1, 0, 2).copy()}

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        self.sizes(shape)
        check_codes(parts["trits"], -1, 1, "trits")
        scale = self.stored(np.ascontiguousarray(parts["scale"].transpose(1, 0, 2)))
        return {"trits": self._packed(np.ascontiguousarray(parts["trits"].transpose(1, 0, 2))), "scale": scale}

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        rows, columns, groups = self.sizes(shape)
        scales = 1 if self.tied else self.planes
        trits = (np.dtype(np.uint8), (rows, self.planes, self._bytes(columns)))
        return {"trits": trits, "scale": (self.scale_dtype, (rows, scales, groups))}

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...]:
        """One term for each plane; one in all where the planes are tied."""
        parts = self.parts(packed, shape)
        matrices = [_tied_codes(parts["trits"])] if self.tied else parts["trits"]
        return tuple(IntegerTerm(codes, scale) for codes, scale in zip(matrices, parts["scale"], strict=True))

    def work(self, shape: tuple[int, ...]) -> Work:
        """Tied planes are summed by group before their common scale: three times one is a shift and an addition."""
        rows, columns, groups = self.sizes(shape)
        kept = columns * 3 // 4 if self.pack_ == "3of4" else columns
        planes = Work(additions=self.planes * rows * kept)
        if self.tied:
            joined = (self.planes - 1) * rows * groups
            return planes + Work(additions=2 * joined, shifts=joined, scalings=rows * groups)
        return planes + Work(scalings=self.planes * rows * groups)

    def _bytes(self, columns: int) -> int:
        if self.pack_ == "base3":
            return -(-columns // 5)
        return packed_size(columns, 2) if self.pack_ == "2bit" else packed_size(columns // 4, three_of_four.WIDTH)

    def _packed(self, trits: np.ndarray) -> np.ndarray:
        if self.pack_ == "3of4":
            return pack_bits(three_of_four.encode(trits), three_of_four.WIDTH)
        digits = (trits + 1).astype(np.uint8)
        if self.pack_ == "2bit":
            return pack_bits(digits, 2)
        padded = np.pad(digits, [(0, 0), (0, 0), (0, -digits.shape[-1] % 5)])
        return np.asarray(padded.reshape(*digits.shape[:-1], -1, 5) @ _POWERS).astype(np.uint8)

    def _unpacked(self, packed: np.ndarray, columns: int) -> np.ndarray:
        if self.pack_ == "3of4":
            return three_of_four.decode(unpack_bits(packed, three_of_four.WIDTH, columns // 4))
        if self.pack_ == "2bit":
            digits = unpack_bits(packed, 2, columns)
        else:
            fives = packed[..., None] // _POWERS.astype(np.uint8) % 3
            digits = fives.reshape(*packed.shape[:-1], packed.shape[-1] * 5)[..., :columns]
        return digits.astype(np.int8) - np.int8(1)


def _tied_limit(planes: int) -> int:
    return int(3**planes // 2)


def _tied_codes(trits: np.ndarray) -> np.ndarray:
    """i8 [N, K]: what tied planes [planes, N, K] add up to, in units of the scale."""
    weights = (3 ** np.arange(len(trits))[::-1]).astype(np.int8)
    return np.tensordot(weights, trits, axes=1)


def _balanced_digits(codes: np.ndarray, planes: int) -> np.ndarray:
    """Trits [planes, ...] of integers, the most significant plane first."""
    digits = []
    for _ in range(planes):
        digit = (codes + 1) % 3 - 1
        digits.append(digit.astype(np.int8))
        codes = (codes - digit) // 3
    return np.stack(digits[::-1])
