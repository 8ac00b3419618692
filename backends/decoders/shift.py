"""`shift`: signed powers of two, in units of the least one; a code shifts a one."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.decoders import Side, Term, decoder
from nomul.backends.decoders.packed import Packed, index, number, shifted
from nomul.backends.expressions import bind

Expr = Any
_FIRST = 0x02_08_20_00  # bytes: 0, 2^0, 2^-2, 2^-4 in units of 2^-5, the larger terms of sp2
_SECOND = 0x01_04_10_00  # 0, 2^-1, 2^-3, 2^-5, the smaller ones


@decoder("shift")
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    groups, codes, form = encoding.group_count(packed.columns), encoding.codes, encoding.form
    magnitude = _pair if encoding.pack_ == "sp2" else _power
    largest = sum(
        1 << (max(form.exponents[0 if codes > 1 else term % len(form.exponents)]) - form.least)
        for term in range(encoding.terms)
    )

    def total(n: Expr, k: Expr) -> Expr:
        sum_ = number(0)
        for term in range(codes):
            code = packed.bits("codes", n * index(codes) + index(term), k, form.width, packed.columns)
            top = 1 << (form.width - 1)
            size = magnitude(bind(tirx.bitwise_and(code, number(top - 1))))
            sum_ = sum_ + tirx.Select(code >= number(top), -size, size)
        return bind(sum_)

    def unit(n: Expr, group: Expr) -> Expr:
        return packed.scale("scale", groups)(n, group) * tirx.FloatImm("float32", 2.0**form.least)

    return (Side(packed.columns, groups, (Term(largest, total, unit),)),)


def _power(place: Expr) -> Expr:
    """0 for place 0, 2^(place - 1) for others."""
    return bind(tirx.shift_right(tirx.shift_left(number(1), place), number(1)))


def _pair(place: Expr) -> Expr:
    """The sum of the two terms of sp2: two bits choose each."""
    first = shifted(number(_FIRST), shifted(place, number(2), 3) * number(8), 255)
    second = shifted(number(_SECOND), tirx.bitwise_and(place, number(3)) * number(8), 255)
    return bind(first + second)
