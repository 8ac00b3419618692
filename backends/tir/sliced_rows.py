"""Rows of floats as four rows of eight-bit digits each, so that dot products of bytes multiply them too.

A row is put on a grid: its largest element lies between 2^26 and 2^27 steps, so that the error of every element is less
than 2^-26 of the largest, where one sum in f32 may lose 2^-25. Steps are digits of base 128, from -64 to 64:

    x = factor * (d0 + d1 / 128 + d2 / 128^2 + d3 / 128^3)

Sums of digits times weights are exact; those of the four digits are added last. A row with a NaN or an infinity gives
NaN everywhere. (Base 256 has a digit -128, whose products the instructions of levels without VNNI cannot hold.)
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.quantise import INFINITY, magnitude
from nomul.backends.tir.row_source import RowSource
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector

Expr = Any
SLICES = 4
_BITS = 7  # of a digit
BASE = 1 << _BITS
LARGEST = BASE // 2  # magnitude of a digit
_GRID = 27  # bits of the largest number of steps
_LEAST = 32  # exponent field: smaller rows have a coarser grid
_LINE = 64  # bytes: rows begin an odd number of lines apart, or large powers of two would share few places of a cache
_EXPONENT, _BIAS = 23, 127  # of a float: where its field begins, and the field of 1.0
_CARRY = sum(LARGEST << _BITS * number for number in range(SLICES - 1))  # all digits but the first, at their largest


class SlicedRows:
    """A `RowSource` of digits: row 4 m + s has digit s of row m of floats. Make it outside of loops.

    most: rows of floats that are fetched at once."""

    def __init__(self, source: RowSource, scratch: Scratch, most: int, lanes: int) -> None:
        self._source, self._lanes = source, lanes
        self.count, self.depth = source.count * SLICES, source.depth
        self._stride = (-(-self.depth // _LINE) | 1) * _LINE
        self._digits = scratch.region("int8", most * SLICES * self._stride)
        self._factors = scratch.region("float32", most)
        self._largest = local("largest", "int32", lanes)

    def fetch(self, first: Expr, rows: Expr) -> Rows:
        """first, rows: multiples of four."""
        floats = self._source.fetch(tirx.truncdiv(first, index(SLICES)), tirx.truncdiv(rows, index(SLICES)))
        with loop("row", tirx.truncdiv(rows, index(SLICES))) as row:
            start = let("floats", floats.start + row * floats.stride)
            exponent = tirx.shift_right(self._largest_of(floats.buffer, start), _integer(_EXPONENT))
            exponent = let("exponent", tirx.max(exponent, _integer(_LEAST)))
            store(self._factors.buffer, self._factors.start + row, _factor(exponent))
            steps = let("steps", _power(2 * _BIAS + _GRID - 1 - exponent))
            target = let("digits", self._digits.start + row * (SLICES * self._stride))
            self._write_digits(floats.buffer, start, target, steps)
        return self.fetched(first)

    def fetched(self, first: Expr) -> Rows:
        return Rows(self._digits.buffer, index(self._digits.start), self._stride)

    def lead(self, row: Expr) -> tuple[Expr, ...]:
        return self._source.lead(tirx.truncdiv(row, index(SLICES)))

    def factor(self, row: Expr) -> Expr:
        """Of a row of floats that was fetched last."""
        return self._factors.buffer[self._factors.start + row]

    def _pieces(self) -> list[tuple[Expr, int, int]]:
        """(how many, lanes, first place) of the vectors and then of the single elements that make up a row."""
        whole = self.depth // self._lanes
        pieces = [(index(whole), self._lanes, 0), (index(self.depth % self._lanes), 1, whole * self._lanes)]
        return [piece for piece in pieces if piece[0].value]

    def _largest_of(self, buffer: Any, start: Expr) -> Expr:
        """int32: the largest `magnitude` of a row."""
        every = lanes_at(0, self._lanes)
        store(self._largest, every, spread(_integer(0), self._lanes))
        for count, lanes, first in self._pieces():
            with loop("piece", count) as piece:
                size = magnitude(load(buffer, start + (first + piece * lanes), lanes))
                place = lanes_at(0, lanes)
                store(self._largest, place, tirx.max(tirx.BufferLoad(self._largest, [place]), size))
        lanes = self._lanes // 2
        while lanes:
            low, high = (tirx.BufferLoad(self._largest, [lanes_at(at, lanes)]) for at in (0, lanes))
            store(self._largest, lanes_at(0, lanes), tirx.max(low, high))
            lanes //= 2
        return self._largest[0]

    def _write_digits(self, buffer: Any, start: Expr, target: Expr, steps: Expr) -> None:
        for count, lanes, first in self._pieces():
            with loop("piece", count) as piece:
                place = let("place", first + piece * lanes)
                scaled = let("scaled", load(buffer, start + place, lanes) * spread(steps, lanes))
                whole = let("whole", self._whole(scaled, lanes) + spread(_integer(_CARRY), lanes))
                for number in range(SLICES):
                    store_vector(self._digits.buffer, target + (number * self._stride + place), _digit(whole, number))

    @staticmethod
    def _whole(scaled: Expr, lanes: int) -> Expr:
        """int32: without what is behind the point; any number for a NaN."""
        most, least = (spread(tirx.FloatImm("float32", float(size)), lanes) for size in (1 << _GRID, -(1 << _GRID)))
        return _cast("int32", let("limited", tirx.max(tirx.min(scaled, most), least)))


def _digit(whole: Expr, number: int) -> Expr:
    """int8: digit `number` of steps with `_CARRY`."""
    lanes = int(whole.ty.dtype.lanes)
    shifted = tirx.shift_right(whole, spread(_integer(_BITS * (SLICES - 1 - number)), lanes))
    if number:
        low = tirx.bitwise_and(shifted, spread(_integer(BASE - 1), lanes))
        shifted = low - spread(_integer(LARGEST), lanes)
    return _cast("int8", shifted)


def _cast(kind: str, value: Expr) -> Expr:
    lanes = int(value.ty.dtype.lanes)
    return tirx.Cast(kind if lanes == 1 else f"{kind}x{lanes}", value)


def _factor(exponent: Expr) -> Expr:
    """f32: the weight of the first digit; NaN where the row is not finite."""
    infinite = exponent >= _integer(INFINITY >> _EXPONENT)
    nothing = tirx.reinterpret("float32", _integer(INFINITY | 1 << 22))
    return let("factor", tirx.Select(infinite, nothing, _power(exponent - _integer(_GRID - 1 - _BITS * (SLICES - 1)))))


def _power(field: Expr) -> Expr:
    """f32: the power of two with this exponent field."""
    return tirx.reinterpret("float32", tirx.shift_left(field, _integer(_EXPONENT)))


def _integer(value: int) -> Expr:
    return tirx.IntImm("int32", value)
