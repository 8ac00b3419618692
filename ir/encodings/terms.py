"""What a product with quantised activations sees of encoded weights: integer matrices, each with scales by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nomul.ir.encodings.base import Encoding


@dataclass(frozen=True, eq=False)
class IntegerTerm:
    """The matrix `scale[n, k // group] * codes[n, k]`, one summand of the weights.

    codes: integers [N, k].  scale: f32 [N, G]; a group is k / G neighbouring columns of codes.
    columns: which columns of the weights the codes stand for, [k], or None for all of them in order."""

    codes: np.ndarray
    scale: np.ndarray
    columns: np.ndarray | None = None

    def rows(self, begin: int, end: int) -> IntegerTerm:
        """The term of some rows of the weights."""
        return IntegerTerm(self.codes[begin:end], self.scale[begin:end], self.columns)


@dataclass(frozen=True, eq=False)
class EncodedArray:
    """Encoded weights of a given shape and element type, for ops that look into them."""

    encoding: Encoding
    fields: Mapping[str, np.ndarray]
    shape: tuple[int, ...]
    dtype: np.dtype

    @cached_property
    def dense(self) -> np.ndarray:
        """The decoded weights."""
        return self.encoding.unpack(self.fields, self.shape).astype(self.dtype, copy=False)

    @cached_property
    def terms(self) -> tuple[IntegerTerm, ...] | None:
        """The integer form of the weights as [N, K] (all axes but the first flattened), or None."""
        return self.encoding.integer_terms(self.fields, self.shape)
