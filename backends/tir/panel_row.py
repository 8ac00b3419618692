"""Neighbouring weights of one row as a vector of floats, where `int8` and `int4` lie in panels of 64 rows for products.

A row has four bytes in each vector of a panel (`backends/dot_codes/shape.py` draws it): those of `int8` are four
neighbouring columns, those of `int4` columns 0 to 3 of eight in the low halves and 4 to 7 in the high ones."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.shape import PANEL, RUN, DotShape
from nomul.backends.frame import KernelFrame
from nomul.backends.storage import from_storage, storage_type
from nomul.backends.tir.body import buffer_at, index, let
from nomul.backends.tir.vectors import load, spread
from nomul.ir.graph import Value
from nomul.ir.types import DType

Expr = Any


def field_types(encoding: Any) -> list[str]:
    """TIR's element types of the packed fields (`backends/layouts/dot64.py`), codes byte by byte."""
    scale = storage_type(DType.from_numpy(encoding.scale_dtype))
    return ["uint8", scale, *(["uint8"] if encoding.zero else [])]


class PanelRows:
    """Reads rows of a parameter. shape: how it is packed."""

    def __init__(self, frame: KernelFrame, table: Value, shape: DotShape) -> None:
        self._target, self._shape = frame.target, shape
        self._encoding: Any = table.type.encoding
        pairs = zip(field_types(self._encoding), frame.pointers[table], strict=True)
        self._codes, self._scales, *self._zeros = [buffer_at("packed", kind, pointer) for kind, pointer in pairs]

    def vector(self, row: Expr, column: Expr, lanes: int) -> Expr:
        """f32 lanes: the weights of a row from a column on, a multiple of the lanes."""
        if lanes < RUN:
            values = [self.element(row, column + lane) for lane in range(lanes)]
            return _joined(values)
        return self._weights(row, column, self._numbers(row, column, lanes), lanes)

    def element(self, row: Expr, column: Expr) -> Expr:
        """One f32 weight."""
        inside, place = self._place(row, column)
        byte = let("byte", load(self._codes, place + tirx.bitwise_and(inside, index(RUN - 1)), 1))
        return self._weights(row, column, tirx.Cast("int32", self._field(byte, inside)), 1)

    def _place(self, row: Expr, column: Expr) -> tuple[Expr, Expr]:
        """(the column inside its unit, the first of the row's bytes there)."""
        shape = self._shape
        group = self._group(column)
        inside_group = let("inside", column - group * shape.size)
        unit = let("unit", tirx.truncdiv(inside_group, index(shape.unit)))
        panel = let("panel", tirx.truncdiv(row, index(PANEL)))
        first = panel * shape.panel_stride + group * shape.group_stride + unit * PANEL + (row - panel * PANEL)
        return let("within", inside_group - unit * shape.unit), let("place", first * RUN)

    def _group(self, column: Expr) -> Expr:
        shape = self._shape
        return index(0) if shape.groups == 1 else let("group", tirx.truncdiv(column, index(shape.size)))

    def _numbers(self, row: Expr, column: Expr, lanes: int) -> Expr:
        """int32 lanes: the stored fields."""
        inside, place = self._place(row, column)
        unit = self._shape.unit
        if lanes < unit:
            pieces = [self._field(let("bytes", load(self._codes, place, RUN)), inside)]
        else:
            vectors = [
                let("bytes", load(self._codes, place + number * PANEL * RUN, RUN)) for number in range(lanes // unit)
            ]
            starts = range(0, unit, RUN)
            pieces = [self._field(vector, index(start)) for vector in vectors for start in starts]
        return tirx.Cast(f"int32x{lanes}", _joined(pieces))

    def _field(self, codes: Expr, inside: Expr) -> Expr:
        """Of each byte the field for a column of this place inside the unit."""
        if self._encoding.bits == 8:
            return codes
        lanes = codes.ty.dtype.lanes
        by = tirx.Cast("uint8", tirx.bitwise_and(inside, index(RUN)))  # the high half begins at bit 4, as at column 4
        shifted = tirx.shift_right(codes, spread(by, lanes))
        return let("field", tirx.bitwise_and(shifted, spread(tirx.const(15, "uint8"), lanes)))

    def _weights(self, row: Expr, column: Expr, numbers: Expr, lanes: int) -> Expr:
        panel = let("panel", tirx.truncdiv(row, index(PANEL)))
        place = (panel * self._shape.groups + self._group(column)) * PANEL + (row - panel * PANEL)
        zero = tirx.const(1 << (self._encoding.bits - 1), "int32")
        if self._zeros:
            zero = let("zero", tirx.Cast("int32", load(self._zeros[0], place, 1)))
        raw = let("raw", load(self._scales, place, 1))
        scale = let("scale", from_storage(raw, DType.from_numpy(self._encoding.scale_dtype), self._target))
        codes = let("codes", numbers - spread(zero, lanes))
        kind = "float32" if lanes == 1 else f"float32x{lanes}"
        return let("weights", tirx.Cast(kind, codes) * spread(scale, lanes))


def _joined(pieces: list[Expr]) -> Expr:
    """Vectors, or numbers, one behind the other."""
    if len(pieces) == 1:
        return pieces[0]
    lanes = len(pieces) * int(pieces[0].ty.dtype.lanes)
    return tirx.Shuffle(pieces, [tirx.const(lane, "int32") for lane in range(lanes)])
