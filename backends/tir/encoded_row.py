"""Neighbouring weights of one row of an encoded matrix as a vector of floats: `int8`, and `int4` in pairs to a byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx

from nomul.backends.decoders import element, sides_of
from nomul.backends.decoders.packed import Packed
from nomul.backends.expressions import bind
from nomul.backends.tir.body import index, let
from nomul.backends.tir.vectors import load, spread
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.bits import packed_size

ALIGNED = 16  # columns: vectors begin at multiples of their size, which divides this
ENCODINGS = ("int8", "int4")

Expr = Any


def alignment(encoding: Any, columns: int) -> int | str:
    """Of what the first column of every vector must be a multiple; or why there are no vectors of such weights."""
    groups = encoding.group_count(columns)
    if groups > 1 and columns // groups % ALIGNED:
        return f"groups are no multiples of {ALIGNED} columns"
    return ALIGNED if groups > 1 or encoding.bits < 8 else 1


def has_vectors(encoding: Encoding | None) -> bool:
    return encoding is not None and encoding.name in ENCODINGS


class RowReader(Protocol):
    """Reads weights of one row as f32."""

    def vector(self, row: Expr, column: Expr, lanes: int) -> Expr: ...

    def element(self, row: Expr, column: Expr) -> Expr: ...


@dataclass(frozen=True)
class PlainRows:
    """Of an encoding's own fields."""

    packed: Packed

    def vector(self, row: Expr, column: Expr, lanes: int) -> Expr:
        """From a column on that `alignment` allows."""
        return _row_vector(self.packed, row, column, lanes)

    def element(self, row: Expr, column: Expr) -> Expr:
        return bind(element(sides_of(self.packed), row, column))


def _row_vector(packed: Packed, row: Expr, column: Expr, lanes: int) -> Expr:
    encoding: Any = packed.encoding
    groups = encoding.group_count(packed.columns)
    group = index(0) if groups == 1 else let("group", tirx.truncdiv(column, index(packed.columns // groups)))
    half = tirx.const(1 << (encoding.bits - 1), "int32")
    zero = packed.bits("zero", row, group, encoding.bits, groups) if encoding.zero else half
    codes = let("codes", _numbers(packed, row, column, lanes, encoding.bits) - spread(zero, lanes))
    scale = let("scale", packed.scale("scale", groups)(row, group))
    return let("weights", tirx.Cast(f"float32x{lanes}", codes) * spread(scale, lanes))


def _numbers(packed: Packed, row: Expr, column: Expr, lanes: int, bits: int) -> Expr:
    """int32 lanes: the stored fields."""
    buffer, each = packed.buffers[packed.prefix + "codes"], 8 // bits
    first = row * packed_size(packed.columns, bits) + (column if each == 1 else tirx.shift_right(column, index(1)))
    codes = let("bytes", load(buffer, first, lanes // each))
    if each == 1:
        return tirx.Cast(f"int32x{lanes}", codes)
    low, high = (_field(codes, shift) for shift in (0, bits))
    pairs = [tirx.const(place, "int32") for lane in range(lanes // 2) for place in (lane, lanes // 2 + lane)]
    return tirx.Cast(f"int32x{lanes}", tirx.Shuffle([low, high], pairs))


def _field(codes: Expr, shift: int) -> Expr:
    """The four bits of each byte from bit `shift` on."""
    lanes = codes.ty.dtype.lanes

    def each(value: int) -> Expr:
        return spread(tirx.const(value, "uint8"), lanes)

    return let("field", tirx.bitwise_and(tirx.shift_right(codes, each(shift)), each(15)))
