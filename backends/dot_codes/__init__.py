"""Integer weights as unsigned numbers of a few bits, for kernels that multiply bytes without a sign by bytes with one.

One file an encoding, found by themselves; each declares the form of the numbers and, in numpy, the arrays of a weight.
`shape.py` says in what order kernels read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.registry import Registry


@dataclass(frozen=True)
class Summand:
    """`factor` times a byte for each number of a part. table: the one that gives the byte; None: the number itself."""

    part: int = 0
    table: int | None = None
    factor: int = 1


@dataclass(frozen=True)
class Codes:
    """Weights as integers, each the sum of its summands less an offset, times a scale of their group.

    parts: the numbers that are stored for a weight, each as widths of 1, 2, 4 or 8 bits, the lowest bits first.
    summands: of every term, larger factors first.  offset: None stands for a zero point for each row and group.
    largest: the largest magnitude of a weight.  terms: matrices of this form, each with scales of its own.
    ones: whether a term of ones stands behind them.  unit: what stored scales are multiplied by.
    palettes: whether each field of a number, of at most two bits, names a byte among four of its row and group (of one
    bit behind the first field: says whether a byte counts, which stands there four times; in the first field it may be
    entry 1 or 2), and the sum of these bytes is what is multiplied. That takes one term, one part and no tables."""

    parts: tuple[tuple[int, ...], ...]
    summands: tuple[Summand, ...]
    offset: int | None
    largest: int
    terms: int = 1
    ones: bool = False
    unit: float = 1.0
    palettes: bool = False

    @property
    def is_wide(self) -> bool:
        """Whether bytes may exceed 128."""
        looked_up = self.palettes or any(summand.table is not None for summand in self.summands)
        return looked_up or any(8 in self.parts[summand.part] for summand in self.summands)

    @property
    def tables(self) -> int:
        return len({summand.table for summand in self.summands} - {None})

    @property
    def is_field(self) -> bool:
        """Whether a weight is one field of bits, less the offset."""
        return len(self.summands) == 1 and len(self.parts[0]) == 1 and not (self.tables or self.palettes)

    @property
    def scales(self) -> int:
        """Of a row and group."""
        return self.terms + self.ones


@dataclass(frozen=True, eq=False)
class Arrays:
    """numbers: u8 [terms, parts, N, K].  scales: [scales, N, G] as they are stored.  zeros: u8 [N, G].
    tables: u8 [tables, 16 or 32].  palettes: u8 [fields, N, G, 4]."""

    numbers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None
    tables: np.ndarray | None = None
    palettes: np.ndarray | None = None


Form = Callable[[Any], Codes | str]
Fill = Callable[[Any, EncodedArray], Arrays]


@dataclass(frozen=True)
class _Coder:
    form: Form
    fill: Fill
    has_tables: bool


_CODERS: Registry[str, _Coder] = Registry(__name__, "the numbers of {}")


def dot_codes(*encodings: str, fill: Fill, has_tables: bool = False) -> Callable[[Form], Form]:
    """Declare the form of an encoding's numbers, or why it has none, and what fills it: `fill(encoding, weights)`.

    has_tables: whether variants have tables."""

    def declare(form: Form) -> Form:
        for name in encodings:
            _CODERS.add(name, _Coder(form, fill, has_tables))
        return form

    return declare


def encodings_with_codes() -> dict[str, bool]:
    """All encodings that have a form, by name, and whether it may have tables."""
    return {name: coder.has_tables for name, coder in _CODERS.all().items()}


def codes_of(encoding: Encoding) -> Codes | str:
    """The form of an encoding that has one, or why this variant of it has none."""
    return _CODERS.all()[encoding.name].form(encoding)


def arrays_of(weights: EncodedArray) -> Arrays:
    return _CODERS.all()[weights.encoding.name].fill(weights.encoding, weights)
