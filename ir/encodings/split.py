"""A few salient columns in one encoding, the rest in another (PB-LLM, arXiv 2310.00034; PTQ1.61, arXiv 2502.13179)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from nomul.ir.encodings.base import Encoding, FieldTypes
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.integer import Int4
from nomul.ir.encodings.low_bit import LowBit, Parts, check_codes, matrix_size, one_of
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.work import Work

_VALUE, _REST = "value_", "rest_"
_FOUR_BITS, _BINARY = Int4(), Bitplane(bits=1)


@dataclass(frozen=True)
class Split(LowBit):
    """Salient columns in the encoding `value`, all others in `rest`, with a scale for each of these where columns=1.

    salient: their share of the columns, rounded to a multiple of the groups, at least one. Each side is stored by
    itself, its columns in ascending order, so that kernels see two dense matrices.
    Parts: salient i32 [S], ascending; value_* and rest_*, the parts of the two encodings; with columns=1 column_scale
    f32 [K - S], by which the decoded rest is multiplied. Packed: the same names, column_scale as rest stores scales.
    The default rest is binary with two free levels for each row, alpha sign(w - mu) + mu in the papers' terms.
    `pack` takes the columns of largest norm; a column's scale is its mean magnitude, relative to the mean of all."""

    name = "split"
    salient: float = 0.125
    value: Encoding = _FOUR_BITS
    rest: Encoding = _BINARY
    columns: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.salient < 1:
            raise ValueError(f"salient must be between 0 and 1, but is {self.salient}")
        for name in ("value", "rest"):
            if not isinstance(getattr(self, name), Grouped):
                raise ValueError(f"{name} cannot be {getattr(self, name)}")
        if (wrong := one_of(self.columns, 0, 1)) is not None:
            raise ValueError(f"columns {wrong}")

    @property
    def sides(self) -> dict[str, Grouped]:
        """The two encodings by the prefix of their fields."""
        assert isinstance(self.value, Grouped) and isinstance(self.rest, Grouped)
        return {_VALUE: self.value, _REST: self.rest}

    @property
    def shared(self) -> tuple[str, ...]:
        inner = [prefix + name for prefix, side in self.sides.items() for name in side.shared]
        return ("salient", *(["column_scale"] if self.columns else []), *inner)

    @property
    def is_integer(self) -> bool:
        return not self.columns

    @property
    def block(self) -> int:
        return 0

    def salient_count(self, columns: int) -> int:
        """Raises ValueError where no column is left for the rest."""
        step = lcm(*(side.block or 1 for side in self.sides.values()))
        count = step * max(1, round(self.salient * columns / step))
        if count >= columns:
            raise ValueError(f"{count} salient of {columns} columns leave no rest")
        return count

    def side_shapes(self, shape: tuple[int, ...]) -> dict[str, tuple[int, int]]:
        """[N, S] and [N, K - S]."""
        rows, columns = matrix_size(shape)
        count = self.salient_count(columns)
        return {_VALUE: (rows, count), _REST: (rows, columns - count)}

    def choose(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        count = self.salient_count(matrix.shape[1])
        norms = (matrix * matrix).sum(axis=0)
        return self.choose_columns(matrix, np.sort(np.argsort(-norms, kind="stable")[:count]))

    def choose_columns(self, matrix: np.ndarray, salient: np.ndarray) -> dict[str, np.ndarray]:
        """The parts for given salient columns [S]."""
        left = matrix[:, _others(salient, matrix.shape[1])]
        parts: dict[str, np.ndarray] = {"salient": salient.astype(np.int32)}
        if self.columns:
            size = np.abs(left).mean(axis=0)
            scale = self._column_encoding.rounded(size / (size.mean() or 1), "column scale")
            left = np.divide(left, scale, out=np.zeros(left.shape), where=scale > 0)
            parts["column_scale"] = scale
        chosen = {_VALUE: matrix[:, salient], _REST: left}
        return parts | _prefixed({prefix: side.choose(chosen[prefix]) for prefix, side in self.sides.items()})

    def values(self, parts: Parts) -> np.ndarray:
        value, rest = (side.values(_behind(parts, prefix)) for prefix, side in self.sides.items())
        if self.columns:
            rest = rest * parts["column_scale"]
        dense = np.zeros((len(value), value.shape[1] + rest.shape[1]), np.float32)
        dense[:, parts["salient"]] = value
        dense[:, _others(parts["salient"], dense.shape[1])] = rest
        return dense

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        own = {"salient": packed["salient"]}
        if self.columns:
            own["column_scale"] = packed["column_scale"].astype(np.float32)
        shapes = self.side_shapes(shape)
        inner = {prefix: side.parts(_behind(packed, prefix), shapes[prefix]) for prefix, side in self.sides.items()}
        return own | _prefixed(inner)

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        shapes, salient = self.side_shapes(shape), parts["salient"]
        check_codes(salient, 0, matrix_size(shape)[1] - 1, "salient columns")
        if salient.shape != (shapes[_VALUE][1],) or (np.diff(salient) <= 0).any():
            raise ValueError(f"there must be {shapes[_VALUE][1]} salient columns in ascending order")
        own = {"salient": salient.astype(np.int32)}
        if self.columns:
            own["column_scale"] = self._column_encoding.stored(parts["column_scale"], "column scale")
        inner = {prefix: side.assemble(_behind(parts, prefix), shapes[prefix]) for prefix, side in self.sides.items()}
        return own | _prefixed(inner)

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        shapes = self.side_shapes(shape)
        types: FieldTypes = {"salient": (np.dtype(np.int32), shapes[_VALUE][1:])}
        if self.columns:
            types["column_scale"] = (self._column_encoding.scale_dtype, shapes[_REST][1:])
        for prefix, side in self.sides.items():
            types |= {prefix + name: type for name, type in side.field_types(shapes[prefix]).items()}
        return types

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...] | None:
        """Those of value, then those of rest, each on its columns; none with columns=1, whose scales split the sums."""
        if self.columns:
            return None
        shapes, salient = self.side_shapes(shape), packed["salient"]
        columns = {_VALUE: salient, _REST: _others(salient, matrix_size(shape)[1])}
        found = {p: side.integer_terms(_behind(packed, p), shapes[p]) for p, side in self.sides.items()}
        if None in found.values():
            return None
        return tuple(replace(term, columns=columns[p]) for p, terms in found.items() for term in terms or ())

    def work(self, shape: tuple[int, ...]) -> Work:
        """That of both sides; scales of columns are multiplied into the inputs."""
        shapes = self.side_shapes(shape)
        value, rest = (side.work(shapes[prefix]) for prefix, side in self.sides.items())
        return value + rest + Work(multiplies=shapes[_REST][1] if self.columns else 0)

    @property
    def _column_encoding(self) -> Grouped:
        return self.sides[_REST]


def _others(salient: np.ndarray, columns: int) -> np.ndarray:
    """The columns that are not salient, ascending."""
    return np.setdiff1d(np.arange(columns), salient)


def _prefixed(inner: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {prefix + name: array for prefix, arrays in inner.items() for name, array in arrays.items()}


def _behind(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
