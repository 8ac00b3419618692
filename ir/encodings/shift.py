"""Sums of signed powers of two: multiplication by shifts and additions (DeepShift; SP2 of additive powers of two)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

from nomul.ir.encodings.base import FieldTypes
from nomul.ir.encodings.bits import pack_bits, packed_size, unpack_bits
from nomul.ir.encodings.grouped import Grouped, divided, field_part, times
from nomul.ir.encodings.low_bit import Parts, check_codes, one_of
from nomul.ir.encodings.terms import IntegerTerm
from nomul.ir.encodings.work import Work


class Form(NamedTuple):
    """width: bits of a code.  exponents: for each term that a code holds, those that its numbers 1, 2, .. stand for."""

    width: int
    exponents: tuple[tuple[int, ...], ...]

    @property
    def least(self) -> int:
        return min(min(choices) for choices in self.exponents)


FORMS = {
    "4bit": Form(4, (tuple(range(-6, 1)),)),
    "5bit": Form(5, (tuple(range(-14, 1)),)),
    "sp2": Form(5, ((0, -2, -4), (-1, -3, -5))),
}


@dataclass(frozen=True)
class Shift(Grouped):
    """A sum of terms, each 0 or a signed power of two, times a scale for every group.

    Parts: sign i8 [terms, N, K] (-1, 0, 1), exponent i8 [terms, N, K] (0 where the sign is), scale f32 [N, G].
    pack: 4bit (exponents -6 to 0) and 5bit (-14 to 0, the range of DeepShift-PS) store each term as 0 or exponent + 7
    (+ 15) below a sign bit, [N, terms, bytes]. sp2: both terms in one 5-bit code [N, 1, bytes]: a common sign, then two
    bits for 0, 2^0, 2^-2, 2^-4, then (lowest) two for 0, 2^-1, 2^-3, 2^-5.
    The method `pack`: the largest weight of a group becomes 1 (sp2: 1.5), every other the nearest sum of the terms."""

    name = "shift"
    terms: int = 1
    group: int = 0
    pack_: str = "4bit"
    scales: str = "f16"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (wrong := one_of(self.terms, 1, 2, 3)) is not None:
            raise ValueError(f"terms {wrong}")
        if (wrong := one_of(self.pack_, *FORMS)) is not None:
            raise ValueError(f"pack {wrong}")
        if self.pack_ == "sp2" and self.terms != 2:
            raise ValueError("pack=sp2 has terms=2")

    @property
    def form(self) -> Form:
        return FORMS[self.pack_]

    @property
    def codes(self) -> int:
        """Codes of a weight."""
        return 1 if self.pack_ == "sp2" else self.terms

    def default_scales(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        most = np.abs(self.grouped(matrix)).max(-1)
        return {"scale": self.rounded(most / 1.5 if self.pack_ == "sp2" else most)}

    def nearest(self, matrix: np.ndarray, scales: Parts) -> dict[str, np.ndarray]:
        sums = _sums(self.terms, self.pack_)
        steps = divided(self.grouped(matrix), scales["scale"]).reshape(matrix.shape) * 2.0**-self.form.least
        chosen = np.searchsorted((sums.totals[1:] + sums.totals[:-1]) / 2, steps)
        return {"sign": sums.sign[:, chosen], "exponent": sums.exponent[:, chosen], **scales}

    def values(self, parts: Parts) -> np.ndarray:
        return times(self._integers(parts), self._unit(parts))

    def parts(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        _, columns, _ = self.sizes(shape)
        codes = unpack_bits(packed["codes"], self.form.width, columns).transpose(1, 0, 2)
        top = np.uint8(1 << (self.form.width - 1))
        negative, places = codes >= top, codes & (top - np.uint8(1))
        if self.pack_ == "sp2":
            places, negative = np.stack([places[0] >> 2, places[0] & 3]), np.repeat(negative, 2, axis=0)
        choices = [np.array((0, *self._choices(term)), np.int8) for term in range(self.terms)]
        exponent = np.stack([table[place] for table, place in zip(choices, places, strict=True)])
        sign = np.where(negative, -1, 1) * (places > 0)
        return {"sign": sign.astype(np.int8), "exponent": exponent, "scale": field_part(packed, "scale")}

    def assemble(self, parts: Parts, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        self.sizes(shape)
        check_codes(parts["sign"], -1, 1, "signs")
        places = np.stack([self._places(parts, term) for term in range(self.terms)])
        negative = parts["sign"] < 0
        if self.pack_ == "sp2":
            if (parts["sign"][0] * parts["sign"][1] < 0).any():
                raise ValueError("the two terms of pack=sp2 must have the same sign")
            places, negative = (places[:1] << 2) | places[1:], negative[:1] | negative[1:]
        codes = places | negative.astype(np.uint8) << (self.form.width - 1)
        return {"codes": pack_bits(codes.transpose(1, 0, 2), self.form.width), "scale": self.stored(parts["scale"])}

    def field_types(self, shape: tuple[int, ...]) -> FieldTypes:
        rows, columns, groups = self.sizes(shape)
        codes = (rows, self.codes, packed_size(columns, self.form.width))
        return {"codes": (np.dtype(np.uint8), codes), "scale": (self.scale_dtype, (rows, groups))}

    def integer_terms(self, packed: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[IntegerTerm, ...]:
        """The sums in units of the least power of two (2^-6, 2^-14, 2^-5)."""
        parts = self.parts(packed, shape)
        return (IntegerTerm(self._integers(parts), self._unit(parts)),)

    def work(self, shape: tuple[int, ...]) -> Work:
        rows, columns, groups = self.sizes(shape)
        terms = self.terms * rows * columns
        return Work(additions=terms, shifts=terms, scalings=rows * groups)

    def _choices(self, term: int) -> tuple[int, ...]:
        return self.form.exponents[term if self.pack_ == "sp2" else 0]

    def _places(self, parts: Parts, term: int) -> np.ndarray:
        """u8 [N, K]: 0, or 1 + the place of the exponent among its choices."""
        choices, exponent = self._choices(term), parts["exponent"][term]
        used = parts["sign"][term] != 0
        if not np.isin(exponent[used], choices).all():
            raise ValueError(f"the exponents of term {term} must be {', '.join(map(str, choices))}")
        order = np.argsort(choices)
        place = order[np.searchsorted(choices, exponent, sorter=order).clip(max=len(choices) - 1)]
        return np.where(used, place + 1, 0).astype(np.uint8)

    def _integers(self, parts: Parts) -> np.ndarray:
        powers = np.left_shift(np.int32(1), parts["exponent"].astype(np.int32) - self.form.least)
        return (parts["sign"] * powers).sum(axis=0, dtype=np.int32)

    def _unit(self, parts: Parts) -> np.ndarray:
        return parts["scale"].astype(np.float32) * np.float32(2.0**self.form.least)


class _Sums(NamedTuple):
    """All sums of the terms, ascending: totals f64 [S] in units of the least power; sign, exponent i8 [terms, S]."""

    totals: np.ndarray
    sign: np.ndarray
    exponent: np.ndarray


@cache
def _sums(terms: int, pack: str) -> _Sums:
    """Of the ways to write a sum, the one with the fewest terms and then the largest first terms."""
    form = FORMS[pack]
    if pack == "sp2":
        ways = [
            tuple((sign, e) if e is not None else (0, 0) for e in pair) for sign in (1, -1) for pair in _pairs(form)
        ]
    else:
        signed = [(0, 0), *((sign, e) for e in reversed(form.exponents[0]) for sign in (1, -1))]
        ways = list(product(signed, repeat=terms))
    table = np.array(ways, np.int8)  # [ways, terms, (sign, exponent)]
    powers = np.ldexp(table[..., 0].astype(np.float64), table[..., 1].astype(np.int64) - form.least)
    sizes = np.abs(powers)
    order = np.lexsort([*(-sizes[:, term] for term in reversed(range(terms))), np.count_nonzero(sizes, axis=1)])
    totals, first = np.unique(powers.sum(axis=1)[order], return_index=True)
    chosen = table[order[first]].transpose(1, 2, 0)
    return _Sums(totals, np.ascontiguousarray(chosen[:, 0]), np.ascontiguousarray(chosen[:, 1]))


def _pairs(form: Form) -> list[tuple[int | None, ...]]:
    return list(product(*((None, *choices) for choices in form.exponents)))
