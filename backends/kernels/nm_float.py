"""nn.linear and nn.conv2d with N of M float weights.

Few rows of a linear layer follow the kept weights as these stream from memory (`backends/tir/sparse_rows.py`). For
more, weights are unpacked by vectors into an f32 panel in scratch, zeros between them, and multiplied as dense ones.
Tiles are those of `encoded.py`."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import encoded
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import either, index, let, loop
from nomul.backends.tir.output import Part
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.sparse_floats import SparseFloats, SparseUnits, field_types
from nomul.backends.tir.sparse_rows import SparseRows, tile_rows
from nomul.ir.graph import Node, Value

RANK = 20
_TILES = 2  # of rows that follow the weights, at most

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    w = group.anchor.args[1]
    assert w is not None
    encoding: Any = w.type.encoding
    return encoded.refusal(group) or ("the kept weights are no floats" if encoding.is_integer else None)


def sparse_floats(group: Group, target: Target) -> Built:
    """Weights in f32 in scratch, placed by vectors."""
    assert group.anchor is not None
    w = group.anchor.args[1]
    assert w is not None
    position, encoding = group.func.params.index(w), w.type.encoding
    fields: Any = {position: field_types(encoding)}  # type: ignore[arg-type]
    return encoded.build(group, target, _Product, fields, {position: "nm_float32"})


class _Product(encoded.FloatProduct):
    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        super().__init__(frame, anchor)
        low, high = self.source.count.bounds(frame.group.ranges)
        tile = tile_rows(frame.target, self._units.encoding.m) if anchor.op == "nn.linear" else 0
        self._few, self._has_more = _TILES * tile, high > _TILES * tile
        self._rows = SparseRows(self._units, self.scratch, tile, self._few) if low <= self._few else None

    def make_panel(self, w: Value) -> encoded.Floats:
        encoding: Any = w.type.encoding
        self._units = SparseUnits(self.frame, w, encoding, self.source.depth)
        return SparseFloats(self._units, self.scratch)

    def emit(self) -> None:
        if self._rows is None:
            super().emit()
            return
        count = let("count", self.frame.size(self.source.count))
        if not self._has_more:
            self._emit_few(self._rows, count)
            return
        with either(count <= self._few) as (then, otherwise):
            with then:
                self._emit_few(self._rows, count)
            with otherwise:
                super().emit()

    def _emit_few(self, rows: SparseRows, count: Expr) -> None:
        """A tile is a panel."""
        rows.prepare(self.source.fetch(index(0), count), count)
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as panel:
            rows.emit(panel, count, self.output.sums)
            column = let("column", panel * PANEL)
            used = let("used", tirx.min(index(PANEL), index(self.width) - column))
            self.output.write_rows(Part(count, self.place_behind(index(0)), self.width, column, used))


for _op in ("nn.linear", "nn.conv2d"):
    kernel(_op, encoding="nm", accepts=refusal, rank=RANK)(sparse_floats)
