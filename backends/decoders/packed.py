"""The packed fields of one encoded weight inside a kernel, and how values of a few bits are read from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.expressions import bind
from nomul.backends.storage import from_storage
from nomul.backends.target import Target
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.bits import packed_size
from nomul.ir.types import DType

Expr = Any


def index(value: int) -> Expr:
    return tirx.IntImm("int64", value)


def number(value: int) -> Expr:
    return tirx.IntImm("int32", value)


def shifted(value: Expr, by: Expr, mask: int) -> Expr:
    """int32 (value >> by) & mask."""
    return tirx.bitwise_and(tirx.shift_right(value, by), number(mask))


@dataclass(frozen=True)
class Packed:
    """encoding: of weights [rows, columns], which may be a part of others.  buffers, types: of the fields and tables,
    by name behind `prefix`."""

    encoding: Encoding
    rows: int
    columns: int
    buffers: Mapping[str, Any]
    types: Mapping[str, np.dtype]
    target: Target
    prefix: str = ""

    def part(self, encoding: Encoding, columns: int, prefix: str = "") -> Packed:
        """Weights inside these, whose fields have a longer prefix."""
        return Packed(encoding, self.rows, columns, self.buffers, self.types, self.target, self.prefix + prefix)

    def raw(self, name: str, place: Expr) -> Expr:
        """An element of a field as it is."""
        return bind(self.buffers[self.prefix + name][place])

    def integer(self, name: str, place: Expr) -> Expr:
        """An element of an integer field, as int32."""
        return bind(tirx.Cast("int32", self.raw(name, place)))

    def real(self, name: str, place: Expr) -> Expr:
        """An element of a float field, as f32."""
        dtype = DType.from_numpy(self.types[self.prefix + name])
        return bind(from_storage(self.raw(name, place), dtype, self.target))

    def bits(self, name: str, row: Expr, place: Expr, width: int, count: int) -> Expr:
        """Unsigned field number `place` of a row of `count` fields of `width` bits (`ir/encodings/bits.py`)."""
        first = row * index(packed_size(count, width))
        if width == 8:
            return self.integer(name, first + place)
        if 8 % width == 0:
            each = 8 // width
            byte = self.integer(name, first + tirx.shift_right(place, index(each.bit_length() - 1)))
            offset = tirx.Cast("int32", tirx.bitwise_and(place, index(each - 1))) * number(width)
            return bind(shifted(byte, offset, 2**width - 1))
        bit = bind(place * index(width))
        low = bind(tirx.shift_right(bit, index(3)))
        bytes_ = [low, *([low + index(1)] if width > 9 else []), tirx.shift_right(bit + index(width - 1), index(3))]
        value = number(0)  # the last byte that a field touches may be one that was read: its bits lie above the field
        for position, byte in enumerate(bytes_):
            part = tirx.shift_left(self.integer(name, first + byte), number(8 * position))
            value = tirx.bitwise_or(value, part)
        return bind(shifted(value, tirx.Cast("int32", tirx.bitwise_and(bit, index(7))), 2**width - 1))

    def scale(self, name: str, groups: int, planes: int = 1, plane: int = 0) -> Any:
        """f32 scale(n, group) of a field [rows, planes, groups]."""
        return lambda n, group: self.real(name, (n * index(planes) + index(plane)) * index(groups) + group)
