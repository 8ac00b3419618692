"""Packed integer weights (`backends/dot_codes`) as an f32 panel in scratch, a vector of rows at a time.

Each 32-bit lane holds four neighbouring columns of a row: for each of them a shift, a mask, a conversion and a product
with the scale make a vector of the panel.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import reduce
from typing import Any, NamedTuple

from tvm import tirx

from nomul.backends.dot_codes.shape import PANEL, RUN, DotShape
from nomul.backends.tir import register_tile
from nomul.backends.tir.body import index, let, loop, when
from nomul.backends.tir.byte_source import Source
from nomul.backends.tir.dot_weights import ROWS, PackedWeights
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import spread, store_vector

Expr = Any
WIDTH = register_tile.PANEL  # columns of an f32 panel


class _Scales(NamedTuple):
    """Of one group and vector of rows: f32 of each term, of the ones (or None), and the int32 zero points (or None)."""

    terms: list[Expr]
    ones: Expr | None
    zero: Expr | None


_Opened = tuple[Source, Expr]


class UnpackedFloats:
    """`panel32` of 32 rows of the weights, [depth, 32] f32. Make it outside of loops."""

    def __init__(self, packed: PackedWeights, shape: DotShape, scratch: Scratch, lanes: int) -> None:
        self._packed, self._shape, self._lanes = packed, shape, lanes
        self.region = scratch.region("float32", shape.columns * WIDTH)

    def fill(self, first: Expr) -> None:
        """Unpack rows [first, first + 32)."""
        panel = let("panel64", tirx.truncdiv(first, index(PANEL)))
        self._packed.look_at(panel)
        with loop("group", self._shape.groups) as group, loop("vector", WIDTH // self._lanes) as vector:
            offset = let("offset", vector * self._lanes)
            column = let("from_column", first - panel * PANEL + offset)
            scales = self._read_scales(group, column)
            sources = self._opened(group, column, len(scales.terms))
            with loop("unit", self._shape.units) as unit:
                self._fill_unit(group, unit, sources, offset, scales)

    def _read_scales(self, group: Expr, column: Expr) -> _Scales:
        codes, scaling = self._shape.codes, self._packed.scaling()
        scales = [let("scale", scaling.scale(group, index(number), column)) for number in range(codes.scales)]
        zero = let("zero", scaling.zero(group, column)) if scaling.zero else None
        return _Scales(scales[: codes.terms], scales[-1] if codes.ones else None, zero)

    def _fill_unit(self, group: Expr, unit: Expr, sources: list[list[_Opened]], offset: Expr, scales: _Scales) -> None:
        shape = self._shape
        readers = [
            [source.reader(let("unit_start", first + unit * source.stride)) for source, first in term]
            for term in sources
        ]
        inside = let("inside", unit * shape.unit)
        place = let("place", (group * shape.size + inside) * WIDTH + offset + self.region.start)
        for piece in range(shape.unit // RUN):
            bytes_ = [[let("bytes", reader.piece(piece, 0)) for reader in term] for term in readers]
            for byte in range(RUN):
                step = piece * RUN + byte
                with when(inside + step < shape.size) if shape.is_padded else nullcontext():
                    store_vector(self.region.buffer, place + step * WIDTH, self._value(bytes_, byte, scales))

    def _opened(self, group: Expr, column: Expr, terms: int) -> list[list[_Opened]]:
        """For each summand of each term what reads its units, and where they begin."""
        start, sources = self._packed.weights().start, self._packed.sources(ROWS)
        return [
            [
                source.opened(let("numbers", start(group, index(term), index(number)) + column), 1)
                for number, source in enumerate(sources)
            ]
            for term in range(terms)
        ]

    def _value(self, bytes_: list[list[Expr]], byte: int, scales: _Scales) -> Expr:
        """f32 lanes: the weights of one column."""
        values = []
        for term, scale in zip(bytes_, scales.terms, strict=True):
            code = self._code(term, byte, scales.zero)
            values.append(tirx.Cast(f"float32x{self._lanes}", code) * scale)
        return reduce(lambda x, y: x + y, values if scales.ones is None else [scales.ones, *values])

    def _code(self, term: list[Expr], byte: int, zero: Expr | None) -> Expr:
        codes = self._shape.codes
        total = None
        for summand, packed in zip(codes.summands, term, strict=True):
            shifted = packed if byte == 0 else tirx.shift_right(packed, self._spread(8 * byte))
            number = tirx.bitwise_and(shifted, self._spread(255))
            number = number if summand.factor == 1 else number * self._spread(summand.factor)
            total = number if total is None else total + number
        assert total is not None
        if zero is not None:
            return total - zero
        return total - self._spread(codes.offset or 0) if codes.offset else total

    def _spread(self, value: int) -> Expr:
        return spread(tirx.const(value, "int32"), self._lanes)
