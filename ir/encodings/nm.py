"""N of M sparsity: of every M neighbouring columns, N weights are kept, in an encoding of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import lcm

import numpy as np

from nomul.ir.encodings.base import Encoding, FieldTypes
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.encodings.half import SixteenBit
from nomul.ir.encodings.low_bit import LowBit, Parts, matrix_size
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.work import Work, dense_work

MOST = 16
_PLAIN = "values"


@dataclass(frozen=True)
class Nm(LowBit):
    """n of every m neighbouring weights, the others zero; value: the encoding of the kept ones (f32 if none is named).

    Kept weights of a row stand side by side, [N, K n / m], and groups of `value` count them.
    Parts: kept u8 [N, K n / m], ascending places 0 to m - 1 within each m columns; and the parts of `value`, or values
    f32 [N, K n / m]. Packed: pattern, the number of the kept places among all choices of n of m in lexicographic order,
    in as many bits as there are choices (2 of 4: three bits for four weights); and the fields of `value`, or values.
    `pack` keeps the largest magnitudes."""

    name = "nm"
    n: int = 2
    m: int = 4
    value: Encoding | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m <= MOST:
            raise ValueError(
                f"{self.n} of {self.m} is not possible: n must be at least 1 and below m, m at most {MOST}"
            )
        if not isinstance(self.value, Grouped | SixteenBit | None):
            raise ValueError(f"value cannot be {self.value}")
        if isinstance(self.value, Grouped) and self.value.group % self.n:
            raise ValueError(f"group={self.value.group} of the kept weights is not a multiple of n={self.n}")

    @property
    def shared(self) -> tuple[str, ...]:
        return self.value.shared if self.value else ()

    @property
    def is_integer(self) -> bool:
        return isinstance(self.value, Grouped)

    @property
    def block(self) -> int:
        kept = self.value.block if isinstance(self.value, Grouped) else self.n
        return lcm(self.m, kept * self.m // self.n) if kept else 0

    @property
    def width(self) -> int:
        """Bits of a pattern."""
        return (len(_places(self.n, self.m)) - 1).bit_length()

    def compact_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """[N, K n / m]. Raises ValueError where m does not divide the columns."""
        rows, columns = matrix_size(shape)
        if columns % self.m:
            raise ValueError(f"m={self.m} does not divide {columns} columns")
        return rows, columns // self.m * self.n

    def choose(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        shape = self.compact_shape(matrix.shape)
        blocks = matrix.reshape(shape[0], -1, self.m)
        largest = np.argsort(-np.abs(blocks), axis=-1, kind="stable")[..., : self.n]
        return self.choose_kept(matrix, np.sort(largest, axis=-1).reshape(shape).astype(np.uint8))

    def choose_kept(self, matrix: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """The parts for given places: `value` chooses for the weights there."""
        compact = self.compacted(matrix, kept)
        if isinstance(self.value, Grouped):
            return {"kept": kept, **self.value.choose(compact)}
        return {"kept": kept, _PLAIN: compact.astype(np.float32)}

    def compacted(self, matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """[N, K n / m]: the weights at the kept places."""
        blocks = matrix.reshape(len(kept), -1, self.m)
        return np.take_along_axis(blocks, self._by_block(kept), axis=-1).reshape(kept.shape)

    def values(self, parts: Parts) -> np.ndarray:
        compact = self.value.values(parts) if isinstance(self.value, Grouped) else parts[_PLAIN]
        return self._scattered(parts["kept"], compact.astype(np.float32, copy=False))

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        compact = self.compact_shape(shape)
        pattern = unpack_bits(packed["pattern"], self.width, compact[1] // self.n)
        kept = _places(self.n, self.m)[pattern].reshape(compact)
        if isinstance(self.value, Grouped):
            return {"kept": kept, **self.value.parts(packed, compact)}
        return {"kept": kept, _PLAIN: packed[_PLAIN].astype(np.float32)}

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        compact = self.compact_shape(shape)
        packed = {"pattern": pack_bits(self._patterns(parts["kept"]), self.width)}
        if isinstance(self.value, Grouped):
            return packed | self.value.assemble(parts, compact)
        values = np.asarray(parts[_PLAIN], np.float32)
        return packed | {_PLAIN: self.value.pack(values)["data"] if self.value else values}

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        rows, kept = compact = self.compact_shape(shape)
        pattern = (rows, packed_size(kept // self.n, self.width))
        types: FieldTypes = {"pattern": (np.dtype(np.uint8), pattern)}
        if isinstance(self.value, Grouped):
            return types | self.value.field_types(compact)
        dtype = self.value.dtype if isinstance(self.value, SixteenBit) else np.dtype(np.float32)
        return types | {_PLAIN: (dtype, compact)}

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...] | None:
        """Those of `value`, zeros between them."""
        compact = self.compact_shape(shape)
        terms = self.value.integer_terms(packed, compact) if isinstance(self.value, Grouped) else None
        if terms is None:
            return None
        kept = self.parts(packed, shape)["kept"]
        return tuple(IntegerTerm(self._scattered(kept, term.codes), term.scale) for term in terms)

    def work(self, shape: tuple[int, ...]) -> Work:
        """A look-up of the places for each pattern, and what the kept weights ask for."""
        rows, kept = compact = self.compact_shape(shape)
        inner = self.value.work(compact) if self.value else dense_work(compact)
        return inner + Work(lookups=rows * (kept // self.n))

    def _by_block(self, kept: np.ndarray) -> np.ndarray:
        return kept.reshape(len(kept), -1, self.n)

    def _scattered(self, kept: np.ndarray, compact: np.ndarray) -> np.ndarray:
        """[N, K]: the compact matrix at the kept places, zero elsewhere."""
        places = self._by_block(kept)
        dense = np.zeros((*places.shape[:2], self.m), compact.dtype)
        np.put_along_axis(dense, places, compact.reshape(places.shape), axis=-1)
        return dense.reshape(len(kept), -1)

    def _patterns(self, kept: np.ndarray) -> np.ndarray:
        places = self._by_block(kept).astype(np.int64)
        if places.min() < 0 or places.max() >= self.m or (np.diff(places, axis=-1) <= 0).any():
            raise ValueError(f"kept places must ascend within each {self.m} columns and be below {self.m}")
        table = (1 << _places(self.n, self.m).astype(np.int64)).sum(-1)
        order = np.argsort(table)
        return order[np.searchsorted(table, (1 << places).sum(-1), sorter=order)]


@cache
def _places(n: int, m: int) -> np.ndarray:
    """u8 [patterns, n]: all choices of n of m places, in lexicographic order."""
    return np.array(list(combinations(range(m), n)), np.uint8)
