"""N of M weights as a kernel gets them: kept codes and their places, and a panel of all columns in scratch."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.dot_codes import Summand
from nomul.backends.dot_codes.shape import PANEL, RUN, DotShape
from nomul.backends.dot_codes.sparse import SparseShape
from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.byte_source import Packed, PackedReader
from nomul.backends.tir.byte_table import shuffled_bytes
from nomul.backends.tir.dot_weights import PackedWeights, UnpackedPanel, field_types
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import spread, store_vector
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.graph import Value

Expr = Any
_EVERY_BYTE = 0x01010101
_NOWHERE = 0xFF  # no place in a block


def sparse_field_types(value: Grouped, sparse: SparseShape) -> list[str]:
    """TIR's element types of the packed fields (`backends/layouts/nm64.py`). value: the encoding of what is kept."""
    return [*field_types(value, sparse.kept), "int32"]


class SparseWeights(PackedWeights):
    """Make it outside of loops. value: the encoding of what is kept."""

    def __init__(self, frame: KernelFrame, w: Value, sparse: SparseShape, value: Grouped) -> None:
        super().__init__(frame, w, sparse.kept, value)
        self.sparse = sparse
        self._places = buffer_at("places", "int32", frame.pointers[w][-1])

    @property
    def is_plain(self) -> bool:
        return False

    def sources(self, rows: int) -> list[Packed]:
        """Units of several windows, shifted down."""
        codes, buffer = self.sparse.codes, self.fields["codes"]
        return [Packed(buffer, self.lanes, self.sparse.kept, summand, self.tables, False) for summand in codes.summands]

    @property
    def places(self) -> Packed:
        """Of the kept weights in their blocks."""
        return Packed(self._places, self.lanes, self.sparse.places, Summand(), None, False)

    def places_start(self, group: Expr) -> Expr:
        shape: DotShape = self.sparse.places
        return self.panel * shape.panel_stride + group * shape.group_stride

    def absent(self, group: Expr, column: Expr) -> Expr:
        """int32 lanes: the byte of a weight that is zero, four times. column: of the first lane."""
        codes = self.sparse.codes
        if codes.offset is None:
            return let("absent", self.zero(group, column) * spread(tirx.const(_EVERY_BYTE, "int32"), self.lanes))
        byte = codes.offset // sum(summand.factor for summand in codes.summands)
        return _bytes([byte] * RUN, self.lanes)

    def unpacked(self, scratch: Scratch) -> SparsePanel:
        return SparsePanel(self, scratch)


class SparsePanel(UnpackedPanel):
    """All columns of a panel, those that are not kept as bytes of zero weights."""

    def __init__(self, packed: SparseWeights, scratch: Scratch) -> None:
        super().__init__(packed, packed.sparse.dense, scratch, packed.lanes)
        self._sparse = packed

    def fill(self) -> None:
        packed, shape = self._sparse, self._sparse.sparse
        with loop("group", shape.groups) as group, loop("term", shape.codes.terms) as term:
            at_places = let("at_places", packed.places_start(group))
            for number, source in enumerate(packed.sources(0)):
                start = let("packed", packed.weights().start(group, term, index(number)))
                target = let("target", self.start(group, term, index(number)))
                with loop("unit", shape.dense.units) as unit, loop("vector", PANEL // self.lanes) as vector:
                    row = let("row", vector * self.lanes)
                    codes = source.reader(let("from", start + unit * source.stride + row))
                    places = packed.places.reader(let("places", at_places + unit * packed.places.stride + row))
                    place = let("to", target + unit * (shape.dense.unit // RUN * PANEL) + row)
                    self._fill_vector(_Kept(shape, codes, places), packed.absent(group, row), place)

    def _fill_vector(self, kept: _Kept, absent: Expr, place: Expr) -> None:
        """One unit of as many rows as a vector has lanes."""
        for run in range(self.shape.unit // RUN):
            store_vector(self.region.buffer, place + run * PANEL, kept.columns(run, absent, self.lanes))


class _Kept:
    """A unit of kept weights of some rows, from which columns are taken."""

    def __init__(self, shape: SparseShape, codes: PackedReader, places: PackedReader) -> None:
        self._shape, self._codes, self._places = shape, codes, places
        self._spread: dict[tuple[int, int], tuple[Expr, Expr]] = {}

    def columns(self, run: int, absent: Expr, lanes: int) -> Expr:
        """Four columns of a unit: where the place of a kept weight is the column's, its code."""
        m, first, kind = self._shape.m, run * RUN, f"int8x{4 * lanes}"
        value = tirx.reinterpret(kind, absent)
        for block in range(first // m, (first + RUN - 1) // m + 1):
            places = [column - block * m for column in range(first, first + RUN)]
            wanted = tirx.reinterpret(kind, _bytes([p if 0 <= p < m else _NOWHERE for p in places], lanes))
            for number in range(self._shape.n):
                code, place = self._everywhere(*self._shape.slot(block, number), lanes)
                value = let("columns", tirx.Select(tirx.EQ(place, wanted), code, value))
        return tirx.reinterpret(f"int32x{lanes}", value)

    def _everywhere(self, dword: int, byte: int, lanes: int) -> tuple[Expr, Expr]:
        """A kept weight's code and place in all four bytes of its lane."""
        key = (dword, byte)
        if key not in self._spread:
            first, step = (tirx.const(count * _EVERY_BYTE, "int32") for count in (byte, RUN))
            from_byte = tirx.Ramp(first, step, lanes)
            pieces = (reader.piece(dword, 0) for reader in (self._codes, self._places))
            code, place = (let("everywhere", shuffled_bytes(piece, from_byte, lanes)) for piece in pieces)
            self._spread[key] = code, place
        return self._spread[key]


def _bytes(values: list[int], lanes: int) -> Expr:
    """int32 lanes: the same four bytes in each."""
    pattern = int.from_bytes(bytes(values), "little", signed=True)
    return spread(tirx.const(pattern, "int32"), lanes)
