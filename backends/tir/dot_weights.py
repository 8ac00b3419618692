"""Packed weights of a dot product as a kernel gets them: where it reads their bytes, scales, zero points and tables."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.shape import BLOCK, PANEL, RUN, DotShape
from nomul.backends.frame import KernelFrame
from nomul.backends.storage import from_storage, storage_type
from nomul.backends.tir import byte_source
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.byte_source import Packed, Sources
from nomul.backends.tir.byte_table import ByteTables
from nomul.backends.tir.dot_tile import Registers, Scaling, Weights
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.encodings.grouped import Grouped
from nomul.ir.graph import Value
from nomul.ir.types import DType

Expr = Any
ROWS = 24  # of a tile


def field_types(encoding: Grouped, shape: DotShape) -> list[str]:
    """TIR's element types of the packed fields (`backends/layouts/dot64.py`)."""
    zero = ["uint8"] if shape.codes.offset is None else []
    table = ["int32"] if shape.codes.tables else []
    return ["int32", storage_type(DType.from_numpy(encoding.scale_dtype)), *zero, *table]


class PackedWeights:
    """Make it outside of loops: its tables are in registers. encoding: what has the numbers of the shape."""

    def __init__(self, frame: KernelFrame, w: Value, shape: DotShape, encoding: Grouped) -> None:
        self._frame, self.shape = frame, shape
        self.lanes = frame.target.vector_bytes // 4
        self._scale_type = DType.from_numpy(encoding.scale_dtype)
        names = ["codes", "scale", "zero", "table"] if shape.codes.offset is None else ["codes", "scale", "table"]
        pairs = zip(names, field_types(encoding, shape), frame.pointers[w], strict=False)
        self.fields = {name: buffer_at(name, kind, pointer) for name, kind, pointer in pairs}
        self.tables = self._load_tables()
        self.panel: Expr = None

    def _load_tables(self) -> ByteTables | None:
        codes = self.shape.codes
        if not codes.tables:
            return None
        entries = 1 << sum(codes.parts[0])
        return ByteTables(self._frame.target, self.fields["table"], codes.tables, entries)

    @property
    def is_plain(self) -> bool:
        """Whether the packed bytes can be multiplied as they are."""
        codes = self.shape.codes
        return codes.parts == ((8,),) and not codes.tables

    def look_at(self, panel: Expr) -> None:
        """All that follows is about this panel."""
        self.panel = panel

    # -- bytes ---------------------------------------------------------------------------------------------------
    def weights(self) -> Weights:
        """The bytes of the panel, unpacked as they are read."""
        return Weights(self.sources, self._start, ahead=True)

    def sources(self, rows: int) -> Sources:
        if self.is_plain:
            return [byte_source.Panel(self.fields["codes"], self.lanes)]
        codes, buffer = self.shape.codes, self.fields["codes"]
        in_place = codes.is_field and Registers.of(self._frame.target).keeps(rows, 8 // codes.parts[0][0])
        return [Packed(buffer, self.lanes, self.shape, summand, self.tables, in_place) for summand in codes.summands]

    def _start(self, group: Expr, term: Expr, number: Expr) -> Expr:
        shape = self.shape
        panel = self.panel * shape.panel_stride + group * shape.group_stride
        part = shape.codes.summands[int(number)].part
        return panel + term * shape.term_stride + shape.part_offset(part)

    # -- scales --------------------------------------------------------------------------------------------------
    def scaling(self) -> Scaling:
        return Scaling(self._scale, self.zero if "zero" in self.fields else None)

    def _scale(self, group: Expr, number: Expr, column: Expr) -> Expr:
        codes = self.shape.codes
        place = ((self.panel * self.shape.groups + group) * codes.scales + number) * PANEL + column
        raw = let("raw", load(self.fields["scale"], place, self.lanes))
        scale = from_storage(raw, self._scale_type, self._frame.target)
        return scale if codes.unit == 1 else scale * spread(tirx.FloatImm("float32", codes.unit), self.lanes)

    def zero(self, group: Expr, column: Expr) -> Expr:
        place = (self.panel * self.shape.groups + group) * PANEL + column
        return tirx.Cast(f"int32x{self.lanes}", load(self.fields["zero"], place, self.lanes))

    # -- a panel in scratch --------------------------------------------------------------------------------------
    def unpacked(self, scratch: Scratch) -> UnpackedPanel:
        return UnpackedPanel(self, self.shape, scratch, self.lanes)


class UnpackedPanel:
    """One panel as bytes of one plane in scratch: [groups, terms, summands, padded columns / 4, 64 rows] int32."""

    def __init__(self, packed: PackedWeights, shape: DotShape, scratch: Scratch, lanes: int) -> None:
        self.packed, self.shape, self.lanes = packed, shape, lanes
        self._size = shape.padded // RUN * PANEL
        count = shape.groups * shape.codes.terms * len(shape.codes.summands)
        self.region = scratch.region("int32", count * self._size)

    def weights(self) -> Weights:
        source = byte_source.Panel(self.region.buffer, self.lanes)
        return Weights(lambda rows: [source] * len(self.shape.codes.summands), self.start, ahead=False)

    def start(self, group: Expr, term: Expr, number: Expr) -> Expr:
        codes = self.shape.codes
        return ((group * codes.terms + term) * len(codes.summands) + number) * self._size + self.region.start

    def fill(self) -> None:
        """Unpack the panel that is looked at."""
        shape, packed = self.shape, self.packed.weights()
        sources = self.packed.sources(ROWS)
        with loop("group", shape.groups) as group, loop("term", shape.codes.terms) as term:
            for number, source in enumerate(sources):
                start = let("packed", packed.start(group, term, index(number)))
                target = let("target", self.start(group, term, index(number)))
                with loop("unit", shape.units) as unit, loop("block", shape.blocks) as block:
                    opened, first = source.opened(start + block * BLOCK, BLOCK // self.lanes)
                    reader = opened.reader(let("from", first + unit * source.stride))
                    place = let("to", target + unit * (shape.unit // RUN * PANEL) + block * BLOCK)
                    self._fill_unit(reader, place)

    def _fill_unit(self, reader: byte_source.Reader, place: Expr) -> None:
        """One unit of 16 rows."""
        for piece in range(self.shape.unit // RUN):
            for vector in range(BLOCK // self.lanes):
                at = place + (piece * PANEL + vector * self.lanes)
                store_vector(self.region.buffer, at, reader.piece(piece, vector))
