"""`ternary`: trits in two bits, five to a byte, or four with one zero in five bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.decoders import Side, Term, decoder
from nomul.backends.decoders.packed import Packed, index, number
from nomul.backends.expressions import bind
from nomul.ir.encodings import Encoding, three_of_four

Expr = Any
_LANES = "three_of_four"


def _tables(encoding: Encoding) -> Mapping[str, np.ndarray]:
    return {_LANES: three_of_four.TRITS} if encoding.pack_ == "3of4" else {}  # type: ignore[attr-defined]


@decoder("ternary", tables=_tables)
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    planes, groups = encoding.planes, encoding.group_count(packed.columns)
    trits = [_trit(packed, plane) for plane in range(planes)]
    if encoding.tied:

        def tied(n: Expr, k: Expr) -> Expr:
            total = number(0)
            for trit in trits:
                total = total * number(3) + trit(n, k)
            return bind(total)

        return (Side(packed.columns, groups, (Term(3**planes // 2, tied, packed.scale("scale", groups)),)),)
    terms = [Term(1, trit, packed.scale("scale", groups, planes, plane)) for plane, trit in enumerate(trits)]
    return (Side(packed.columns, groups, tuple(terms)),)


def _trit(packed: Packed, plane: int) -> Callable[[Expr, Expr], Expr]:
    """-1, 0 or 1 of one plane."""
    encoding: Any = packed.encoding

    def row(n: Expr) -> Expr:
        return n * index(encoding.planes) + index(plane)

    def two_bits(n: Expr, k: Expr) -> Expr:
        return bind(packed.bits("trits", row(n), k, 2, packed.columns) - number(1))

    def base_three(n: Expr, k: Expr) -> Expr:
        five = bind(tirx.truncdiv(k, index(5)))
        byte = packed.integer("trits", row(n) * index(-(-packed.columns // 5)) + five)
        digit = bind(tirx.Cast("int32", k - five * index(5)))
        for power in (1, 2, 3, 4):
            byte = bind(tirx.Select(digit >= number(power), tirx.truncdiv(byte, number(3)), byte))
        return bind(tirx.truncmod(byte, number(3)) - number(1))

    def three_fours(n: Expr, k: Expr) -> Expr:
        four = tirx.shift_right(k, index(2))
        code = packed.bits("trits", row(n), four, three_of_four.WIDTH, packed.columns // 4)
        lane = tirx.bitwise_and(k, index(3))
        return packed.integer(_LANES, tirx.Cast("int64", code) * index(4) + lane)

    return {"2bit": two_bits, "base3": base_three, "3of4": three_fours}[encoding.pack_]
