"""Encodings with one scale for each group of neighbouring columns of a row."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from nomul.ir.encodings.low_bit import LowBit, Parts, matrix_size, one_of

SCALE_DTYPES = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16), "f32": np.dtype(np.float32)}
_AT_ONCE = 1 << 16  # weights
NEGLIGIBLE = 2.0**-13  # a scale this much below the tensor's largest may become zero


class Grouped(LowBit):
    """group: columns that share a scale (0: the whole row).  scales: how scales are stored, f16, bf16 or f32."""

    group: int
    scales: str

    def __post_init__(self) -> None:
        if self.group < 0:
            raise ValueError(f"group must not be negative, but is {self.group}")
        if (wrong := one_of(self.scales, *SCALE_DTYPES)) is not None:
            raise ValueError(f"scales {wrong}")

    @property
    def is_integer(self) -> bool:
        return True

    # -- choosing ----------------------------------------------------------------------------------------------
    def choose(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        return self.nearest_by_rows(matrix, self.default_scales(matrix))

    def nearest_by_rows(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        """`nearest`, a few rows at a time: what it computes on the way stays in the cache."""
        step, chunks = max(1, _AT_ONCE // matrix.shape[1]), []
        for begin in range(0, len(matrix), step):
            rows = slice(begin, begin + step)
            own = {name: part if part.ndim == 1 else part[..., rows, :] for name, part in scales.items()}
            chunks.append(self.nearest(matrix[rows], own))
        whole = {name: [chunk[name] for chunk in chunks] for name in chunks[0]}
        return {name: part[0] if part[0].ndim == 1 else np.concatenate(part, axis=-2) for name, part in whole.items()}

    def default_scales(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """The parts that are not codes, by the rule of `pack`, rounded as they are stored. matrix: f64 [N, k]."""
        raise NotImplementedError

    def nearest(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        """All parts: the given scales, and for every weight the code that comes nearest. matrix: f64 [N, k]."""
        raise NotImplementedError

    @property
    def block(self) -> int:
        return self.group

    # -- groups ------------------------------------------------------------------------------------------------
    def group_count(self, columns: int) -> int:
        """Raises ValueError where the groups do not divide the columns."""
        if self.group and columns % self.group:
            raise ValueError(f"group={self.group} does not divide {columns} columns")
        return columns // self.group if self.group else 1

    def sizes(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(rows, columns, groups in a row). Raises ValueError for a shape that does not fit."""
        rows, columns = matrix_size(shape)
        return rows, columns, self.group_count(columns)

    def grouped(self, matrix: np.ndarray) -> np.ndarray:
        """[..., N, G, g], a view of [..., N, k]."""
        return matrix.reshape(*matrix.shape[:-1], self.group_count(matrix.shape[-1]), -1)

    # -- scales ------------------------------------------------------------------------------------------------
    @property
    def scale_dtype(self) -> np.dtype:
        return SCALE_DTYPES[self.scales]

    def stored(self, scale: np.ndarray, what: str = "scale") -> np.ndarray:
        """The scales as the bytes hold them. Raises ValueError for one outside the range of `scales`.

        A scale that is far below the largest one of the tensor may become zero: its weights are nothing to the rest."""
        with np.errstate(over="ignore", under="ignore"):
            rounded = scale.astype(self.scale_dtype)
        wide, size = rounded.astype(np.float32), np.abs(scale)
        lost = ~np.isfinite(wide) | ((wide == 0) & (size > NEGLIGIBLE * size.max(initial=0)))
        if lost.any():
            worst = float(scale[lost].flat[0])
            hint = "" if self.scales == "f32" else "; scales=f32 holds it"
            raise ValueError(f"the {what} {worst:g} is outside the range of {self.scales}{hint}")
        return rounded

    def rounded(self, scale: np.ndarray, what: str = "scale") -> np.ndarray:
        """The f32 value of the stored scales. Raises ValueError as `stored` does."""
        return self.stored(scale, what).astype(np.float32)


def times(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """f32 [..., N, k]: integer or float codes [..., N, k] times the scale [..., N, G] of their group, rounded once."""
    groups = codes.reshape(*scale.shape, -1).astype(np.float32)
    return (groups * scale.astype(np.float32)[..., None]).reshape(codes.shape)


def divided(groups: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """groups [..., G, g] / scale [..., G] in f64, zero where the scale is zero."""
    wide = np.broadcast_to(scale[..., None], groups.shape)
    return np.divide(groups, wide, out=np.zeros(groups.shape), where=wide != 0)


def field_part(packed: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """A float field as an f32 part."""
    return packed[name].astype(np.float32)
