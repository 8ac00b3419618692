"""`split`: two sides, the salient columns and the rest; which column is where is found by search in the sorted list."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.decoders import Side, decoder, sides_of, tables_of
from nomul.backends.decoders.packed import Packed, index
from nomul.backends.expressions import bind
from nomul.ir.encodings import Encoding

Expr = Any


def _tables(encoding: Encoding) -> Mapping[str, np.ndarray]:
    parts: Any = encoding
    return {prefix + name: table for prefix, side in parts.sides.items() for name, table in tables_of(side).items()}


@decoder("split", tables=_tables)
def sides(packed: Packed) -> tuple[Side, ...]:
    encoding: Any = packed.encoding
    shapes = encoding.side_shapes((packed.rows, packed.columns))
    (value, salient), (rest, others) = ((prefix, shape[1]) for prefix, shape in shapes.items())
    columns = _Columns(packed, salient)
    (first,) = sides_of(packed.part(encoding.sides[value], salient, value))
    (second,) = sides_of(packed.part(encoding.sides[rest], others, rest))
    factor = (lambda place: packed.real("column_scale", place)) if encoding.columns else None
    return (
        replace(first, column=columns.salient, place=columns.place_in_salient),
        replace(second, column=columns.other, place=columns.place_in_rest, factor=factor),
    )


class _Columns:
    """Salient columns in ascending order."""

    def __init__(self, packed: Packed, count: int) -> None:
        self._packed, self._count, self._others = packed, count, packed.columns - count

    def salient(self, place: Expr) -> Expr:
        return bind(tirx.Cast("int64", self._packed.integer("salient", place)))

    def other(self, place: Expr) -> Expr:
        """The column at a place of the rest: there are as many more before it as salient ones."""
        return bind(place + self._search(lambda at: self.salient(at) - at <= place))

    def place_in_salient(self, column: Expr) -> tuple[Expr, Expr]:
        before = self._before(column)
        return self._is_salient(column, before), tirx.min(before, index(self._count - 1))

    def place_in_rest(self, column: Expr) -> tuple[Expr, Expr]:
        before = self._before(column)
        place = tirx.min(column - before, index(self._others - 1))
        return tirx.Not(self._is_salient(column, before)), place

    def _before(self, column: Expr) -> Expr:
        """How many salient columns stand before it."""
        return self._search(lambda at: self.salient(at) < column)

    def _is_salient(self, column: Expr, before: Expr) -> Expr:
        last = index(self._count - 1)
        return tirx.And(before <= last, tirx.EQ(self.salient(tirx.min(before, last)), column))

    def _search(self, holds: Any) -> Expr:
        """How many of the places [0, count) hold, where those that do come first."""
        found, step = index(0), 1 << (self._count.bit_length() - 1)
        while step:
            place = bind(found + index(step - 1))
            inside = bind(tirx.min(place, index(self._count - 1)))
            more = tirx.And(place < index(self._count), holds(inside))
            found = bind(tirx.Select(more, place + index(1), found))
            step //= 2
        return found
