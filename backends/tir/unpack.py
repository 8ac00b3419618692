"""Encoded weights of 32 neighbouring rows, unpacked into scratch: as an f32 panel, or as integers with their scales."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any

from tvm import tirx

from nomul.backends.decoders import Side, Term, scaled
from nomul.backends.tir.body import index, let, loop, store
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.scratch import Region, Scratch

Expr = Any


class FloatPanel:
    """`panel32` of 32 rows of the weights, [depth, 32] f32."""

    def __init__(self, sides: tuple[Side, ...], width: int, depth: int, scratch: Scratch) -> None:
        self._sides, self._width = sides, width
        self.region = scratch.region("float32", depth * PANEL)
        self._scales = scratch.region("float32", max(len(side.terms) for side in sides) * PANEL)

    def fill(self, first: Expr) -> None:
        """Unpack rows [first, first + 32); behind the last row it is repeated."""
        for side in self._sides:
            with loop("group", side.groups) as group:
                self._read_scales(side, first, group)
                with loop("step", side.size) as step:
                    self._fill_row(side, first, let("place", group * side.size + step))

    def _read_scales(self, side: Side, first: Expr, group: Expr) -> None:
        for number, term in enumerate(side.terms):
            if term.scale is not None:
                with loop("column", PANEL) as column:
                    place = self._scales.start + number * PANEL + column
                    store(self._scales.buffer, place, term.scale(_row(first, column, self._width), group))

    def _fill_row(self, side: Side, first: Expr, place: Expr) -> None:
        target = let("target", (side.column(place) if side.column else place) * PANEL + self.region.start)
        factor = side.factor(place) if side.factor else None
        with loop("column", PANEL) as column:
            row = _row(first, column, self._width)
            values = [self._value(term, number, row, place, column) for number, term in enumerate(side.terms)]
            total = reduce(lambda x, y: x + y, values)
            store(self.region.buffer, target + column, total if factor is None else total * factor)

    def _value(self, term: Term, number: int, row: Expr, place: Expr, column: Expr) -> Expr:
        scale = self._scales.buffer[self._scales.start + number * PANEL + column] if term.scale else None
        return scaled(term.code(row, place), scale)


@dataclass(frozen=True)
class TermCodes:
    """One term of 32 rows. codes: [32, columns of the side].  scales: f32 [groups, 32].

    offset: where the side's places begin among those of all sides."""

    side: Side
    term: Term
    codes: Region
    scales: Region
    offset: int


class IntegerPanel:
    """The terms of 32 rows of the weights, each as wide as its codes need."""

    def __init__(self, sides: tuple[Side, ...], width: int, scratch: Scratch) -> None:
        self._width = width
        self.terms: list[TermCodes] = []
        offset = 0
        for side in sides:
            for term in side.terms:
                codes = scratch.region(_code_type(term.largest), PANEL * side.columns)
                scales = scratch.region("float32", side.groups * PANEL)
                self.terms.append(TermCodes(side, term, codes, scales, offset))
            offset += side.columns

    def fill(self, first: Expr) -> None:
        """Unpack rows [first, first + 32); behind the last row it is repeated."""
        for part in self.terms:
            with loop("column", PANEL) as column:
                row = _row(first, column, self._width)
                self._fill_codes(part, row, let("target", column * part.side.columns + part.codes.start))
                scale = part.term.scale
                assert scale is not None
                with loop("group", part.side.groups) as group:
                    store(part.scales.buffer, group * PANEL + column + part.scales.start, scale(row, group))

    @staticmethod
    def _fill_codes(part: TermCodes, row: Expr, target: Expr) -> None:
        kind = _code_type(part.term.largest)
        with loop("place", part.side.columns) as place:
            store(part.codes.buffer, target + place, tirx.Cast(kind, part.term.code(row, place)))


def _row(first: Expr, column: Expr, width: int) -> Expr:
    return let("n", tirx.min(first + column, index(width - 1)))


def _code_type(largest: int) -> str:
    return "int8" if largest <= 127 else "int16" if largest < 2**15 else "int32"
