"""nn.linear and nn.conv2d of floats with packed integer weights on x86, in the layout of `dot.py`.

Few rows of a linear layer become four rows of digits each (`backends/tir/sliced_rows.py`), whose dot products with the
weights that stream from memory are exact: an even tile is then 64 columns, an odd one nothing. For more rows weights
are unpacked, a vector of rows at a time, into an f32 panel that dense weights' inner kernel multiplies; tiles are those
of `encoded.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes import codes_of, encodings_with_codes
from nomul.backends.dot_codes.shape import PANEL
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import encoded
from nomul.backends.kernels.dot import RANK, shape_of
from nomul.backends.mathlib import fma
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir import byte_table, dot
from nomul.backends.tir.body import either, index, let, loop, when
from nomul.backends.tir.dot_rows import PreparedRows
from nomul.backends.tir.dot_tile import DotTile
from nomul.backends.tir.dot_weights import PackedWeights, field_types
from nomul.backends.tir.float_unpack import UnpackedFloats
from nomul.backends.tir.output import Output, Part
from nomul.backends.tir.register_tile import PANEL as FLOAT_PANEL
from nomul.backends.tir.sliced_rows import BASE, LARGEST, SLICES, SlicedRows
from nomul.backends.tir.vectors import lanes_at, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value

_FEW, _FEW_UNFUSED = 24, 3  # rows in all that are sliced; without VNNI dot products are three instructions
_TWO = PANEL // FLOAT_PANEL

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    w = group.anchor.args[1]
    reason = encoded.refusal(group)
    if reason is not None:
        return reason
    assert w is not None and w.type.encoding is not None
    codes = codes_of(w.type.encoding)
    return codes if isinstance(codes, str) else None


def packed_floats(group: Group, target: Target) -> Built:
    """Digits of few rows, or weights in f32 in scratch."""
    assert group.anchor is not None
    w = group.anchor.args[1]
    assert w is not None
    position, encoding = group.func.params.index(w), w.type.encoding
    fields: Any = {position: field_types(encoding, shape_of(w))}  # type: ignore[arg-type]
    return encoded.build(group, target, _Product, fields, {position: "dot64"})


class _Product(encoded.FloatProduct):
    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        super().__init__(frame, anchor)
        low, self._high = self.source.count.bounds(frame.group.ranges)
        self._few = _FEW if dot.is_fused(frame.target) else _FEW_UNFUSED
        is_served = anchor.op == "nn.linear" and self.packed.shape.sums_fit(LARGEST)
        counts = range(int(low), int(min(self._high, self._few)) + 1) if is_served else []
        self._sliced = _Sliced(self, counts) if counts else None

    def make_panel(self, w: Value) -> encoded.Floats:
        shape, encoding = shape_of(w), w.type.encoding
        self.packed = PackedWeights(self.frame, w, shape, encoding)  # type: ignore[arg-type]
        return UnpackedFloats(self.packed, shape, self.scratch, self.frame.target.vector_bytes // 4)

    def emit(self) -> None:
        if self._sliced is None:
            super().emit()
            return
        count = let("count", self.frame.size(self.source.count))
        if self._high <= self._few:
            self._sliced.emit(count)
            return
        with either(count <= self._few) as (then, otherwise):
            with then:
                self._sliced.emit(count)
            with otherwise:
                super().emit()


class _Sliced:
    """Emits the form for few rows. counts: of rows that can occur."""

    def __init__(self, product: _Product, counts: Sequence[int]) -> None:
        self._product, frame, shape = product, product.frame, product.packed.shape
        self._lanes, most = frame.target.vector_bytes // 4, max(counts)
        self._source = SlicedRows(product.source, product.scratch, most, self._lanes)
        self._totals = product.scratch.region("float32", most * SLICES * PANEL)
        scaling = product.packed.scaling()
        self._tile = DotTile(shape, frame.target, self._totals, scaling, [SLICES])
        self._rows = PreparedRows(
            self._source, shape, product.scratch, frame.target, most * SLICES, self._tile.needs_sums
        )
        bias = (*product.anchor.args, None)[2]
        self._output = Output(frame, product.anchor, bias, self._lanes, Dim.of(product.width), PANEL)

    def emit(self, count: Expr) -> None:
        frame, packed = self._product.frame, self._product.packed
        first, last = (let("panel", tirx.truncdiv(tile + (_TWO - 1), index(_TWO))) for tile in (frame.begin, frame.end))
        slices = let("slices", count * SLICES)
        with when(first < last):
            rows = self._rows.prepare(index(0), slices)
            with loop("panel", last - first, first) as panel:
                packed.look_at(panel)
                self._tile.emit(packed.weights(), rows, slices)
                self._add_slices(count)
                self._write(count, panel)

    def _add_slices(self, count: Expr) -> None:
        """Totals of four digits become one."""
        with loop("row", count) as row, loop("vector", PANEL // self._lanes) as vector:
            place = let("place", self._totals.start + row * (SLICES * PANEL) + vector * self._lanes)
            base = spread(tirx.FloatImm("float32", 1 / BASE), self._lanes)
            total = None
            for number in reversed(range(SLICES)):
                part = tirx.BufferLoad(self._totals.buffer, [lanes_at(place + number * PANEL, self._lanes)])
                total = part if total is None else let("total", fma(total, base, part))
            at = self._totals.start + row * PANEL + vector * self._lanes
            store_vector(self._totals.buffer, at, total)

    def _write(self, count: Expr, panel: Expr) -> None:
        width = self._product.width
        column = let("column", panel * PANEL)
        used = let("used", tirx.min(index(PANEL), index(width) - column))
        part = Part(count, self._product.place_behind(index(0)), width, column, used)
        self._output.write_rows(part, self._totals.start, scale=lambda row: let("factor", self._source.factor(row)))


for _encoding, _has_tables in encodings_with_codes().items():
    _uses = (*dot.USES, *(byte_table.USES if _has_tables else ()))
    for _op in ("nn.linear", "nn.conv2d"):
        kernel(_op, encoding=_encoding, needs=("ssse3",), uses=_uses, accepts=refusal, rank=RANK)(packed_floats)
