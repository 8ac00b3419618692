"""`int8`, `int4`: unsigned fields of eight or four bits, less half of their range or less a zero point."""

from __future__ import annotations

from typing import Any

from nomul.backends.decoders import Side, Term, decoder
from nomul.backends.decoders.packed import Packed, number
from nomul.backends.expressions import bind

Expr = Any


@decoder("int8", "int4")
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    groups = encoding.group_count(packed.columns)
    size = packed.columns // groups

    def code(n: Expr, k: Expr) -> Expr:
        field = packed.bits("codes", n, k, encoding.bits, packed.columns)
        if not encoding.zero:
            return bind(field - number(1 << (encoding.bits - 1)))
        group = Side(packed.columns, groups, ()).group(k)
        return bind(field - packed.bits("zero", n, group, encoding.bits, groups))

    assert size * groups == packed.columns
    low, high = encoding.limits
    largest = high - low if encoding.zero else max(-low, high)
    return (Side(packed.columns, groups, (Term(largest, code, packed.scale("scale", groups)),)),)
