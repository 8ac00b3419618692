"""Look-up tables of 16 or 32 levels: any grid, times a scale for each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nomul.ir.encodings.base import FieldTypes
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.grouped import Grouped, divided, field_part, times
from nomul.ir.encodings.low_bit import Parts, check_codes, one_of
from nomul.ir.encodings.palettes import FIXED, STORED, as_integers, palette
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.work import Work, dense_work


@dataclass(frozen=True)
class Codebook(Grouped):
    """A table of 16 or 32 small integers, one for every weight, times a scale for every group.

    grid: e2m1, e1m2, e3m0 (four-bit floats), nf4: the table is that of the name. free (normal quantiles), power,
    twinlog: `pack` starts from such a table, and the one that a fitter chose is stored, [entries] for the tensor.
    Parts: codes u8 [N, K], scale f32 [N, G], palette f32 [entries]. Tables are integers up to 127, so that sums with
    quantised activations are; `assemble` brings others there and their unit into the scale.
    Packed: codes in 4 or 5 bits, scale, palette i8 where it is stored. `pack` clips nothing."""

    name = "codebook"
    entries: int = 16
    group: int = 0
    grid: str = "free"
    scales: str = "f16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (wrong := one_of(self.entries, 16, 32)) is not None:
            raise ValueError(f"entries {wrong}")
        if (wrong := one_of(self.grid, *FIXED, *STORED)) is not None:
            raise ValueError(f"grid {wrong}")
        palette(self.grid, self.entries)

    @property
    def shared(self) -> tuple[str, ...]:
        return () if self.grid in FIXED else ("palette",)

    @property
    def width(self) -> int:
        """Bits of a code."""
        return 4 if self.entries == 16 else 5

    def default_scales(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        return self.scales_for(matrix, palette(self.grid, self.entries))

    def scales_for(self, matrix: np.ndarray, levels: np.ndarray) -> dict[str, np.ndarray]:
        """The scales with which a table [entries] reaches the ends of every group, and the table as it is stored."""
        table, groups = as_integers(levels), self.grouped(matrix)
        ends = [(groups.max(-1), table.max()), (-groups.min(-1), -table.min())]
        scale = np.max([end.clip(min=0) / reach for end, reach in ends if reach > 0], axis=0)
        return {"scale": self.rounded(scale), "palette": table}

    def nearest(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        levels, places = np.unique(scales["palette"].astype(np.float64), return_index=True)
        steps = divided(self.grouped(matrix), scales["scale"]).reshape(matrix.shape)
        codes = places[np.searchsorted((levels[1:] + levels[:-1]) / 2, steps)]
        return {"codes": codes.astype(np.uint8), **scales}

    def values(self, parts: Parts) -> np.ndarray:
        return times(parts["palette"][parts["codes"]], parts["scale"])

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        _, columns, _ = self.sizes(shape)
        codes = unpack_bits(packed["codes"], self.width, columns)
        return {"codes": codes, "scale": field_part(packed, "scale"), "palette": self._table(packed)}

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        self.sizes(shape)
        check_codes(parts["codes"], 0, self.entries - 1)
        levels, scale = parts["palette"], parts["scale"]
        if not np.isfinite(levels).all() or levels.shape != (self.entries,) or not levels.any():
            raise ValueError(f"a palette must have {self.entries} numbers that are not all zero")
        table = as_integers(levels)
        if self.grid in FIXED and not np.array_equal(table, self._table({})):
            raise ValueError(f"the palette is not that of grid={self.grid}")
        unit = np.abs(levels).max() / np.abs(table).max()
        packed = {"codes": pack_bits(parts["codes"], self.width), "scale": self.stored(scale * unit)}
        return packed | ({} if self.grid in FIXED else {"palette": table.astype(np.int8)})

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        rows, columns, groups = self.sizes(shape)
        types: FieldTypes = {
            "codes": (np.dtype(np.uint8), (rows, packed_size(columns, self.width))),
            "scale": (self.scale_dtype, (rows, groups)),
        }
        return types | ({} if self.grid in FIXED else {"palette": (np.dtype(np.int8), (self.entries,))})

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...]:
        parts = self.parts(packed, shape)
        return (IntegerTerm(parts["palette"].astype(np.int8)[parts["codes"]], parts["scale"]),)

    def work(self, shape: tuple[int, ...]) -> Work:
        rows, columns, groups = self.sizes(shape)
        return dense_work(shape) + Work(lookups=rows * columns, scalings=rows * groups)

    def _table(self, packed: Mapping[str, np.ndarray]) -> np.ndarray:
        return palette(self.grid, self.entries) if self.grid in FIXED else field_part(packed, "palette")
