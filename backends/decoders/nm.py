"""`nm`: the number of a pattern gives a mask of kept places; the kept weights stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.decoders import Side, Term, decoder, sides_of, tables_of
from nomul.backends.decoders.packed import Packed, index, number, shifted
from nomul.backends.expressions import bind
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.grouped import Grouped

Expr = Any


def _tables(encoding: Encoding) -> Mapping[str, np.ndarray]:
    sparse: Any = encoding
    masks = [sum(1 << place for place in places) for places in combinations(range(sparse.m), sparse.n)]
    inner = tables_of(sparse.value) if sparse.value else {}
    return {**inner, "masks": np.array(masks, np.uint16)}


@decoder("nm", tables=_tables)
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    kept = packed.columns // encoding.m * encoding.n
    if not isinstance(encoding.value, Grouped):
        values = Term(0, lambda n, k: packed.real("values", n * index(kept) + k), None)
        return (Side(packed.columns, 1, (replace(values, code=_scattered(packed, kept, values)),)),)
    (inner,) = sides_of(packed.part(encoding.value, kept))
    terms = tuple(replace(term, code=_scattered(packed, kept, term)) for term in inner.terms)
    return (Side(packed.columns, inner.groups, terms),)


def _scattered(packed: Packed, kept: int, term: Term) -> Callable[[Expr, Expr], Expr]:
    """The code of a kept place, zero elsewhere."""
    encoding: Any = packed.encoding

    def code(n: Expr, k: Expr) -> Expr:
        block = bind(tirx.truncdiv(k, index(encoding.m)))
        place = bind(tirx.Cast("int32", k - block * index(encoding.m)))
        pattern = packed.bits("pattern", n, block, encoding.width, kept // encoding.n) if encoding.width else number(0)
        mask = packed.integer("masks", tirx.Cast("int64", pattern))
        before = tirx.bitwise_and(mask, tirx.shift_left(number(1), place) - number(1))
        rank = tirx.min(_ones(bind(before)), number(encoding.n - 1))
        value = term.code(n, bind(block * index(encoding.n) + tirx.Cast("int64", rank)))
        nothing = tirx.const(0, str(value.ty.dtype))
        return bind(tirx.Select(tirx.NE(shifted(mask, place, 1), number(0)), value, nothing))

    return code


def _ones(bits: Expr) -> Expr:
    """How many of 16 bits are set."""
    bits = bind(bits - shifted(bits, number(1), 0x5555))
    bits = bind(tirx.bitwise_and(bits, number(0x3333)) + shifted(bits, number(2), 0x3333))
    bits = bind(tirx.bitwise_and(bits + tirx.shift_right(bits, number(4)), number(0x0F0F)))
    return bind(tirx.bitwise_and(bits + tirx.shift_right(bits, number(8)), number(31)))
