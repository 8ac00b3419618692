"""`bitplane`: an offset, which is a plane of ones, and planes of bits; tied planes are one sum of integers."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

from nomul.backends.decoders import Side, Term, decoder
from nomul.backends.decoders.packed import Packed, index, number
from nomul.backends.expressions import bind
from nomul.ir.encodings.tied_planes import LIMIT

Expr = Any


@decoder("bitplane")
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    planes, groups = encoding.bits, encoding.group_count(packed.columns)

    def bit(plane: int) -> Callable[[Expr, Expr], Expr]:
        return lambda n, k: packed.bits("bits", n * index(planes) + index(plane), k, 1, packed.columns)

    if encoding.tied:
        code = _tied(packed, groups, [bit(plane) for plane in range(planes)])
        return (Side(packed.columns, groups, (Term(LIMIT, code, packed.scale("scale", groups)),)),)
    ones = Term(1, lambda n, k: number(1), packed.scale("offset", groups))
    terms = [Term(1, bit(plane), packed.scale("scale", groups, planes, plane)) for plane in range(planes)]
    return (Side(packed.columns, groups, (ones, *terms)),)


def _tied(packed: Packed, groups: int, bits: list[Callable[[Expr, Expr], Expr]]) -> Callable[[Expr, Expr], Expr]:
    """The integer of a weight: the base, and the ratio of each plane whose bit is set."""

    def code(n: Expr, k: Expr) -> Expr:
        group = bind(Side(packed.columns, groups, ()).group(k))

        def ratio(plane: int) -> Expr:
            return packed.integer("ratio", (n * index(len(bits)) + index(plane)) * index(groups) + group)

        parts = [bit(n, k) * ratio(plane) for plane, bit in enumerate(bits)]
        return bind(reduce(lambda x, y: x + y, parts, packed.integer("base", n * index(groups) + group)))

    return code
