"""nn.linear with weights known when compiling, dense or in sixteen-bit floats: packed panels, sums in registers.

A tile is 24 rows x 32 columns (one weight panel), so that every level counts the same tiles; rows are the products of
the leading axes. Tiles are ordered by blocks of rows that fit the second-level cache; inside one, all rows of a panel
follow each other, so that a thread streams each panel once. One row alone (decoding) streams weights at memory speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends import storage
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.gemm import InnerKernel, Panel, Reduction, Rows
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.ir.dim import Dim, Range, ceil_div, product
from nomul.ir.graph import Node, Value
from nomul.ir.types import DType
from nomul.ir.views import resolve

ROWS = 24  # of a tile: whole register tiles of 8, 12 and 6 rows
_CACHED = 512 * 1024  # bytes of A that a block of rows may take, about half of a second-level cache
_THREAD_WORK = 64 * 1024  # bytes of weights worth a thread

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    reason = weight_refusal(group)
    if reason is None and row_view(group.anchor.args[0]) is None:
        return "rows of the operand are not evenly spaced runs of elements"
    return reason


def weight_refusal(group: Group) -> str | None:
    """Why a product with constant weights, with or without a bias, cannot be served, whatever its first operand."""
    anchor = group.anchor
    assert anchor is not None
    w, *rest = anchor.args[1:]
    if len(group.func.returns) != 1:
        return "more than one result"
    if w not in group.func.params or group.func.params.index(w) not in group.weights:
        return "the weights are not known when compiling"
    if any(value is not None and value.dtype is not DType.F32 for value in anchor.args):
        return "operands are not f32"
    if any(value is not None and value.producer is not None for value in rest):
        return "the bias is computed inside the group"
    return None


def image_refusal(group: Group) -> str | None:
    """The same for a convolution, which reads a whole image."""
    assert group.anchor is not None
    x = group.anchor.args[0]
    return "the image is computed inside the group" if x is None or x.producer is not None else weight_refusal(group)


@dataclass(frozen=True)
class RowView:
    """Rows of a parameter: element k of row r is element `offset + r * stride + k`."""

    param: Value
    offset: Dim
    stride: Dim


def row_view(x: Value | None) -> RowView | None:
    """The last axis as contiguous elements, all others as one count of rows; None where they are not."""
    view = resolve(x) if x is not None else None
    if x is None or view is None or (view.strides[-1] != Dim.of(1) and x.shape[-1] != Dim.of(1)):
        return None
    stride: Dim | None = None
    for size, step in reversed(list(zip(x.shape[:-1], view.strides[:-1], strict=True))):
        if size == Dim.of(1):
            continue
        if stride is None:
            stride, span = step, step * size
        elif step == span:
            span = step * size
        else:
            return None
    return RowView(view.source, view.offset, x.shape[-1] if stride is None else stride)


@kernel("nn.linear", accepts=refusal, rank=20)
def packed(group: Group, target: Target) -> Built:
    """f32 weights."""
    return build(group, target, "float32")


@kernel("nn.linear", encoding="f16", accepts=refusal, rank=20)
def packed_f16(group: Group, target: Target) -> Built:
    """f16 weights, widened as they are loaded."""
    return build(group, target, "uint16")


@kernel("nn.linear", encoding="bf16", accepts=refusal, rank=20)
def packed_bf16(group: Group, target: Target) -> Built:
    """bf16 weights, widened as they are loaded."""
    return build(group, target, "uint16")


def build(group: Group, target: Target, stored: str, layout: str = "panel32") -> Built:
    """Also for 1 x 1 convolutions, whose pixels are the rows: weights [N, K, 1, 1] in a layout with the same panels."""
    assert group.anchor is not None
    x, w = group.anchor.args[:2]
    assert x is not None and w is not None
    position = group.func.params.index(w)
    depth, width = int(w.shape[1]), int(w.shape[0])
    rows = product(x.shape[:-1])
    with KernelFrame(group, target, {position: [stored]}) as frame:
        _Linear(frame, group.anchor, stored).emit(rows)
    panels = -(-width // PANEL)
    bytes_per_tile = depth * PANEL * (4 if stored == "float32" else 2)
    return Built(
        frame.function,
        tiles=ceil_div(rows, ROWS) * panels,
        grain=max(1, _THREAD_WORK // max(1, bytes_per_tile)),
        scratch=Dim.of(ROWS * PANEL * 4),
        layouts={position: layout},
        inplace=inplace_operands(group),
    )


def inplace_operands(group: Group) -> tuple[int, ...]:
    """Parameters that only the element-wise nodes read, each element where the result's is written."""
    (result,) = group.func.returns
    return tuple(
        position
        for position, param in enumerate(group.func.params)
        if position not in group.weights
        and param.type == result.type
        and all(node.op.startswith("ew.") for node, _ in param.users)
    )


def row_counts(rows: Dim, tile: int, ranges: Mapping[str, Range]) -> list[int]:
    """The row counts that tiles of `tile` rows can have."""
    low, high = rows.bounds(ranges)
    if low == high:
        return sorted({min(tile, int(low)), int(low) % tile or tile})
    return list(range(1, int(min(tile, high)) + 1))


def weight_decoder(encoding: str | None, target: Target) -> Any:
    """Stored weights -> f32."""
    if encoding is None:
        return lambda raw: raw
    return lambda raw: storage.from_storage(let("raw", raw), DType(encoding), target)


def tile_position(frame: KernelFrame, number: Expr, rows: Dim, width: int, row_bytes: int) -> tuple[Expr, Expr]:
    """(panel, first row) of a tile: all row tiles of a panel in turn, inside blocks of rows that stay in the cache."""
    panels = -(-width // PANEL)
    block = max(6, _CACHED // (ROWS * row_bytes))
    all_tiles = let("row_tiles", tirx.truncdiv(frame.size(rows) + (ROWS - 1), index(ROWS)))
    high = rows.bounds(frame.group.ranges)[1]
    if high <= block * ROWS:
        panel = let("panel", tirx.truncdiv(number, all_tiles))
        return panel, let("first", (number - panel * all_tiles) * ROWS)
    start = let("start", tirx.truncdiv(number, index(block * panels)) * block)
    inside = let("inside", tirx.min(index(block), all_tiles - start))
    rest = let("rest", number - start * panels)
    panel = let("panel", tirx.truncdiv(rest, inside))
    return panel, let("first", (start + rest - panel * inside) * ROWS)


class _Linear:
    """Emits the body of one kernel."""

    def __init__(self, frame: KernelFrame, anchor: Node, stored: str) -> None:
        x, w, bias = (*anchor.args, None)[:3]
        assert x is not None and w is not None
        view = row_view(x)
        assert view is not None
        self.frame, self.view, self.anchor = frame, view, anchor
        self.width, self.depth = int(w.shape[0]), int(w.shape[1])
        self.tile = RegisterTile.of(frame.target, self.width, decoded=w.type.encoding is not None)
        self.output = Output(frame, anchor, bias, frame.target.vector_bytes // 4, Dim.of(self.width))
        self.weights = buffer_at("weights", stored, frame.pointers[w][0])
        self.decode = weight_decoder(w.type.encoding.name if w.type.encoding else None, frame.target)

    def emit(self, rows: Dim) -> None:
        inner = InnerKernel(self.tile, row_counts(rows, ROWS, self.frame.group.ranges))
        count = self.frame.size(rows)
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as number:
            panel, first = tile_position(self.frame, number, rows, self.width, self.depth * 4)
            left = let("rows", tirx.min(index(ROWS), count - first))
            self._tile(inner, panel, first, left)

    def _tile(self, inner: InnerKernel, panel: Expr, first: Expr, left: Expr) -> None:
        stride = self.frame.size(self.view.stride)
        rows = Rows(
            self.frame.buffer(self.view.param), let("a", first * stride + self.frame.size(self.view.offset)), stride
        )
        weights = Panel(self.weights, let("b", panel * (self.depth * PANEL)), self.decode)
        column = let("column", panel * PANEL)
        used = let("used", tirx.min(index(PANEL), index(self.width) - column))

        def place(row: Expr) -> Place:
            flat = let("flat", (first + row) * self.width)
            return Place(flat, lambda: self._lead(first + row))

        part = Part(left, place, self.width, column, used)
        self.output.multiply(inner, part, rows, weights, Reduction(self.depth))

    def _lead(self, row: Expr) -> tuple[Expr, ...]:
        sizes = [self.frame.size(size) for size in self.anchor.result.shape[:-1]]
        return tuple(split_index(let("row", row), sizes))
