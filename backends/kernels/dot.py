"""Products of eight-bit rows or windows and packed integer weights on x86: dot products of bytes, as levels have them.

A tile is 24 rows x 64 columns, one panel of weights (`backends/dot_codes/shape.py`). For up to eight rows in all, the
weights are unpacked in registers as they stream from memory; for more, once for all row tiles of a panel that follow
each other, into bytes in scratch. Weights of eight bits are read as they are. The windows of a convolution are gathered
into scratch, tap by tap where a row of weights has one scale (the order of its columns then does not matter).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes import codes_of, encodings_with_codes
from nomul.backends.dot_codes.shape import PANEL, DotShape
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import dot_cost, encoded, linear
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import byte_table, dot
from nomul.backends.tir.body import either, index, let, local, loop, store, when
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.dot_rows import DotRows, PreparedRows
from nomul.backends.tir.dot_tile import DotTile
from nomul.backends.tir.dot_weights import ROWS, PackedWeights, field_types
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.row_source import RowSource, TensorRows, Windows
from nomul.backends.tir.scratch import Scratch
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.encodings.low_bit import matrix_size
from nomul.ir.graph import Node, Value
from nomul.ir.quantise import LEVELS

FEW = 8  # rows in all that are multiplied while weights are unpacked
RANK = 20
_MOST_UNPACKED = 2  # summands whose code is repeated for each number of rows
_BLOCK = 8  # row tiles that share prepared rows and an unpacked panel
_PREPARED = 512 * 1024  # bytes of such rows
_THREAD_WORK = 64 * 1024  # weights worth a thread

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    reason = encoded.refusal(group)
    if reason is not None:
        return reason
    w = anchor.args[2]
    assert w is not None and w.type.encoding is not None
    codes = codes_of(w.type.encoding)
    return codes if isinstance(codes, str) else shape_refusal(anchor, shape_of(w))


def shape_refusal(anchor: Node, shape: DotShape) -> str | None:
    """Why weights of this shape are not served, or None."""
    q = anchor.args[0]
    assert q is not None
    if anchor.op == "nn.quantised_linear" and linear.row_view(q) is None:
        return "rows of the operand are not evenly spaced runs of elements"
    return None if shape.sums_fit(LEVELS) else "sums of a group do not fit 32 bits"


def shape_of(w: Value) -> DotShape:
    """Of weights whose encoding has numbers."""
    encoding: Any = w.type.encoding
    codes = codes_of(encoding)
    assert not isinstance(codes, str)
    rows, columns = matrix_size(tuple(int(size) for size in w.shape))
    return DotShape(codes, rows, columns, encoding.group_count(columns))


def cost(group: Group, target: Target, rows: int) -> float:
    """Cycles that a linear layer is estimated to take."""
    assert group.anchor is not None
    w = group.anchor.args[2]
    assert w is not None
    return dot_cost.cycles(shape_of(w), target, rows)


def _taps_in_front(anchor: Node) -> int:
    """How many taps of a convolution stand in front of the channels in the columns of its weights; 1: as they are."""
    if anchor.op == "nn.quantised_linear":
        return 1
    w, (height, width) = anchor.args[2], Geometry(anchor).kernel
    assert w is not None
    return height * width if shape_of(w).groups == 1 else 1


def bytes_product(group: Group, target: Target) -> Built:
    """Dot products of bytes."""
    anchor = group.anchor
    assert anchor is not None
    w = anchor.args[2]
    assert w is not None
    shape, position, taps = shape_of(w), group.func.params.index(w), _taps_in_front(anchor)
    encoding: Any = w.type.encoding
    with KernelFrame(group, target, {position: field_types(encoding, shape)}) as frame:
        made = Product(frame, anchor, shape, taps)
        made.emit()
    return made.built({position: f"dot64:{taps}" if taps > 1 else "dot64"})


def _row_tiles(shape: DotShape) -> int:
    """Of a block of rows."""
    return max(1, min(_BLOCK, _PREPARED // (ROWS * shape.columns)))


class Product:
    """Emits the body of one kernel. taps: in front of the channels in the columns of the weights; 1: as they are."""

    few: float = FEW  # infinite: any number
    most_unpacked = _MOST_UNPACKED
    slack = 0  # bytes behind a row that are read in vain

    def __init__(self, frame: KernelFrame, anchor: Node, shape: DotShape, taps: int = 1) -> None:
        q, scale, w, bias = (*anchor.args, None)[:4]
        assert q is not None and scale is not None and w is not None
        self.frame, self.shape, self._scale = frame, shape, scale
        self.scratch = Scratch(frame)
        self._lanes = frame.target.vector_bytes // 4
        self.totals = self.scratch.region("float32", ROWS * PANEL)  # `Output` expects them first
        self._is_image = anchor.op == "nn.quantised_conv2d"
        self._block = _row_tiles(shape)
        self.source = self._row_source(anchor, taps)
        self._output = Output(frame, anchor, bias, self._lanes, Dim.of(shape.rows), PANEL)
        self.weights = self.packed_weights(w)
        self._choose_forms()
        self._rows = self._prepared_rows()
        self._prepared, self._unpacked = (local(name, "int64", 1) for name in ("prepared", "unpacked"))

    def packed_weights(self, w: Value) -> PackedWeights:
        encoding: Any = w.type.encoding
        return PackedWeights(self.frame, w, self.shape, encoding)

    def _row_source(self, anchor: Node, taps: int) -> RowSource:
        q = anchor.args[0]
        assert q is not None
        if self._is_image and not Geometry(anchor).is_pointwise:
            return Windows(self.frame, anchor, "int8", self.scratch, self._block * ROWS, taps > 1)
        view = linear.row_view(q)
        assert view is not None
        return TensorRows(self.frame, q, view.stride)

    def _choose_forms(self) -> None:
        """few: unpacks in registers.  many: reads an unpacked panel, or bytes that need no unpacking."""
        low, high = self.source.count.bounds(self.frame.group.ranges)
        is_plain = self.weights.is_plain
        is_long = len(self.shape.codes.summands) > self.most_unpacked
        counts = linear.row_counts(self.source.count, ROWS, self.frame.group.ranges)
        few = counts if high <= self.few else range(int(low), int(self.few) + 1)
        few = [] if is_plain or is_long else few
        self._few = self.few_tile(few) if few else None
        self._many = self.tile(counts) if not few or high > self.few else None
        self._panel = self.weights.unpacked(self.scratch) if self._many and not is_plain else None

    def tile(self, counts: Sequence[int]) -> DotTile:
        return DotTile(self.shape, self.frame.target, self.totals, self.weights.scaling(), counts)

    def few_tile(self, counts: Sequence[int]) -> DotTile:
        """For rows that share no unpacked panel."""
        return self.tile(counts)

    def _prepared_rows(self) -> PreparedRows:
        tiles = [tile for tile in (self._few, self._many) if tile]
        most = int(min(self.source.count.bounds(self.frame.group.ranges)[1], self._block * ROWS))
        with_sums, target = any(tile.needs_sums for tile in tiles), self.frame.target
        return PreparedRows(self.source, self.shape, self.scratch, target, most, with_sums, self.slack)

    def emit(self) -> None:
        store(self._prepared, 0, index(-1))
        store(self._unpacked, 0, index(-1))
        count = let("count", self.frame.size(self.source.count))
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as number:
            block, panel, first = self._position(number, count)
            with when(tirx.NE(self._prepared[0], block)):
                self._rows.prepare(block, let("prepared", tirx.min(count - block, index(self._block * ROWS))))
                store(self._prepared, 0, block)
            rows = self._rows.again(block).behind(first - block)
            left = let("rows", tirx.min(index(ROWS), count - first))
            self.weights.look_at(panel)
            self._multiply(rows, left, count, panel)
            self._write(first, left, panel)

    def built(self, layouts: dict[int, str]) -> Built:
        """After `emit` and the end of the frame."""
        return Built(
            self.frame.function,
            tiles=ceil_div(self.source.count, ROWS) * self.shape.panels,
            grain=max(1, _THREAD_WORK // (self.shape.columns * PANEL)),
            scratch=Dim.of(self.scratch.bytes),
            layouts=layouts,
            inplace=linear.inplace_operands(self.frame.group),
        )

    def _position(self, number: Expr, count: Expr) -> tuple[Expr, Expr, Expr]:
        """(first row of the block, panel, first row) of a tile: blocks of rows, panels in them, row tiles in those."""
        panels = self.shape.panels
        all_tiles = let("row_tiles", tirx.truncdiv(count + (ROWS - 1), index(ROWS)))
        start = let("start", tirx.truncdiv(number, index(self._block * panels)) * self._block)
        inside = let("inside", tirx.min(index(self._block), all_tiles - start))
        rest = let("rest", number - start * panels)
        panel = let("panel", tirx.truncdiv(rest, inside))
        return let("block", start * ROWS), panel, let("first", (start + rest - panel * inside) * ROWS)

    def _multiply(self, rows: DotRows, left: Expr, count: Expr, panel: Expr) -> None:
        """By the form that suits the number of all rows."""
        if self._few and self._many:
            with either(count <= self.few) as (then, otherwise):
                with then:
                    self._few.emit(self.weights.weights(), rows, left)
                with otherwise:
                    self._multiply_many(rows, left, panel)
        elif self._few:
            self._few.emit(self.weights.weights(), rows, left)
        else:
            self._multiply_many(rows, left, panel)

    def _multiply_many(self, rows: DotRows, left: Expr, panel: Expr) -> None:
        assert self._many is not None
        if self._panel is None:
            self._many.emit(self.weights.weights(), rows, left)
            return
        with when(tirx.NE(self._unpacked[0], panel)):
            self._panel.fill()
            store(self._unpacked, 0, panel)
        self._many.emit(self._panel.weights(), rows, left)

    def _write(self, first: Expr, left: Expr, panel: Expr) -> None:
        """Finish the totals, times their rows' scales."""
        column = let("column", panel * PANEL)
        used = let("used", tirx.min(index(PANEL), index(self.shape.rows) - column))

        def place(row: Expr) -> Place:
            flat = let("flat", (first + row) * self.shape.rows)
            return Place(flat, lambda: self.source.lead(first + row))

        part = Part(left, place, self.shape.rows, column, used)
        self._output.write_rows(part, scale=lambda row: self._row_scale(first + row))

    def _row_scale(self, row: Expr) -> Expr:
        """Each row of a linear layer has a scale, or each image."""
        of = self.source.lead(row)[0] if self._is_image else row
        return let("row_scale", self.frame.read_flat(self._scale, of))


for _encoding, _has_tables in encodings_with_codes().items():
    _uses = (*dot.USES, *(byte_table.USES if _has_tables else ()))
    for _op in ("nn.quantised_linear", "nn.quantised_conv2d"):
        _cost = cost if _op == "nn.quantised_linear" else None
        kernel(_op, encoding=_encoding, needs=("ssse3",), uses=_uses, accepts=refusal, rank=RANK, cost=_cost)(
            bytes_product
        )
