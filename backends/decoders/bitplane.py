"""`bitplane`: an offset, which is a plane of ones, and planes of bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nomul.backends.decoders import Side, Term, decoder
from nomul.backends.decoders.packed import Packed, index, number

Expr = Any


@decoder("bitplane")
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    planes, groups = encoding.bits, encoding.group_count(packed.columns)

    def bit(plane: int) -> Callable[[Expr, Expr], Expr]:
        return lambda n, k: packed.bits("bits", n * index(planes) + index(plane), k, 1, packed.columns)

    ones = Term(1, lambda n, k: number(1), packed.scale("offset", groups))
    terms = [Term(1, bit(plane), packed.scale("scale", groups, planes, plane)) for plane in range(planes)]
    return (Side(packed.columns, groups, (ones, *terms)),)
