"""nn.matmul of two activations, batched, with operands seen through affine views (slices, transposes, broadcasts).

A tile is one panel of 32 columns of the right operand and up to 192 rows of the left one. The panel is copied into
scratch in the order of packed weights, [K, 32], and the inner kernel of `backends/tir/gemm.py` does the rest. Rows of
the left operand may have any strides, since it takes their elements one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels.linear import ROWS, inplace_operands, row_counts
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, loop, opaque, store
from nomul.backends.tir.gemm import InnerKernel, Panel, Reduction, Rows
from nomul.backends.tir.output import Output, Part, Place, column_pieces
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.transposition import transposed
from nomul.backends.tir.vectors import load, store_vector
from nomul.ir.dim import Dim, ceil_div, product
from nomul.ir.types import DType
from nomul.ir.views import View, resolve

BLOCK = 8 * ROWS  # rows of a tile
_THREAD_WORK = 400_000  # multiply-adds worth a thread
_TYPICAL = 128  # the size that a symbolic axis is taken to have, to judge the work

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    if len(group.func.returns) != 1:
        return "more than one result"
    for value in group.anchor.args:
        assert value is not None
        if value.dtype is not DType.F32:
            return "operands are not f32"
        if resolve(value) is None:
            return "an operand is not an affine view of a parameter"
        if value.type.encoding is not None:
            return "an operand is an encoded weight"
    return None


@kernel("nn.matmul", accepts=refusal, rank=20)
def panels(group: Group, target: Target) -> Built:
    """f32 operands."""
    with KernelFrame(group, target) as frame:
        body = _Matmul(frame)
        body.emit()
    rows, columns, depth = body.sizes
    work = min(BLOCK, rows.value or _TYPICAL) * (depth.value or _TYPICAL) * PANEL
    return Built(
        frame.function,
        tiles=product(body.batch) * ceil_div(rows, BLOCK) * ceil_div(columns, PANEL),
        grain=max(1, _THREAD_WORK // max(1, work)),
        scratch=(depth * PANEL + ROWS * PANEL) * 4,
        inplace=inplace_operands(group),
    )


class _Matmul:
    """Emits the body of one kernel. sizes: M, N, K.  batch: the result's leading axes."""

    def __init__(self, frame: KernelFrame) -> None:
        anchor = frame.group.anchor
        assert anchor is not None
        x, y = anchor.args
        assert x is not None and y is not None
        left, right = resolve(x), resolve(y)
        assert left is not None and right is not None
        self.frame, self.left, self.right = frame, left, right
        self.sizes = (x.shape[-2], y.shape[-1], x.shape[-1])
        self.batch = anchor.result.shape[:-2]
        self.lanes = frame.target.vector_bytes // 4
        self.tile = RegisterTile.of(frame.target, self.sizes[1].value)
        self.output = Output(frame, anchor, None, self.lanes, self.sizes[1])
        self.scratch = buffer_at("packed", "float32", frame.scratch)  # behind the sums of a tile
        self.batches = [self._batch_strides(view, value.shape) for view, value in ((left, x), (right, y))]

    def _batch_strides(self, view: View, shape: Sequence[Dim]) -> list[Expr]:
        """Strides along the result's leading axes; none along those that the operand repeats over."""
        strides = [Dim.of(0) if size == Dim.of(1) else s for size, s in zip(shape, view.strides, strict=True)][:-2]
        missing = len(self.batch) - len(strides)
        return [self.frame.size(stride) for stride in (*(Dim.of(0),) * missing, *strides)]

    def emit(self) -> None:
        frame = self.frame
        rows, columns, depth = (frame.size(size) for size in self.sizes)
        zero = None if self.sizes[2].value else opaque(frame.begin, 0.0)
        inner = InnerKernel(self.tile, row_counts(self.sizes[0], ROWS, frame.group.ranges), zero=zero)
        blocks = frame.size(ceil_div(self.sizes[0], BLOCK))
        count = frame.size(ceil_div(self.sizes[1], PANEL))
        with loop("tile", frame.end - frame.begin, frame.begin) as number:
            *batch, block, panel = split_index(number, [*(frame.size(size) for size in self.batch), blocks, count])
            start, first = let("start", block * BLOCK), let("first", panel * PANEL)
            used = let("used", tirx.min(index(PANEL), columns - first))
            self._pack(batch, first, used, depth)
            last = let("last", tirx.min(start + BLOCK, rows))
            with loop("chunk", tirx.truncdiv(last - start + (ROWS - 1), index(ROWS))) as chunk:
                row = let("row", start + chunk * ROWS)
                self._chunk(inner, batch, row, let("left", tirx.min(index(ROWS), last - row)), first, used)

    def _start(self, view: View, strides: list[Expr], batch: list[Expr]) -> Expr:
        total = self.frame.size(view.offset)
        for place, stride in zip(batch, strides, strict=True):
            total = total + place * stride
        return let("start", total)

    def _pack(self, batch: list[Expr], first: Expr, used: Expr, depth: Expr) -> None:
        """The panel of columns [first, first + used) into scratch; what is behind them stays unused."""
        down, across = self.right.strides[-2:]
        start = self._start(self.right, self.batches[1], batch)
        start = let("start", start + first * self.frame.size(across))
        if across == Dim.of(1):
            self._pack_rows(start, used, depth)
        elif down == Dim.of(1):
            self._pack_columns(start, used, depth)
        else:
            self._pack_elements(start, index(0), used, index(0), depth)

    def _pack_rows(self, start: Expr, used: Expr, depth: Expr) -> None:
        """Of an operand whose rows are contiguous."""
        buffer, step = self.frame.buffer(self.right.source), self.frame.size(self.right.strides[-2])
        with loop("k", depth) as k:
            source, target = let("source", start + k * step), let("target", k * PANEL + ROWS * PANEL)
            for piece, lanes in column_pieces(self.sizes[1], self.lanes, PANEL, used):
                with piece as offset:
                    store_vector(self.scratch, target + offset, load(buffer, source + offset, lanes))

    def _pack_columns(self, start: Expr, used: Expr, depth: Expr) -> None:
        """Of an operand whose columns are contiguous: square blocks, transposed in registers, and what is left over."""
        buffer, stride, side = (
            self.frame.buffer(self.right.source),
            self.frame.size(self.right.strides[-1]),
            self.lanes,
        )
        blocks_across = let("blocks", tirx.truncdiv(used, index(side)))
        blocks_down = let("blocks", tirx.truncdiv(depth, index(side)))
        with loop("across", blocks_across) as across, loop("down", blocks_down) as down:
            column, k = let("column", across * side), let("k", down * side)
            source = let("source", start + column * stride + k)
            rows = [let("row", load(buffer, source + number * stride, side)) for number in range(side)]
            for number, vector in enumerate(transposed(rows)):
                store_vector(self.scratch, (k + number) * PANEL + column + ROWS * PANEL, vector)
        self._pack_elements(start, index(0), blocks_across * side, blocks_down * side, depth)
        self._pack_elements(start, blocks_across * side, used, index(0), depth)

    def _pack_elements(self, start: Expr, column: Expr, columns: Expr, row: Expr, rows: Expr) -> None:
        """Columns [column, columns) of rows [row, rows), one by one."""
        buffer = self.frame.buffer(self.right.source)
        down, across = (self.frame.size(stride) for stride in self.right.strides[-2:])
        with loop("column", columns - column, column) as c:
            source = let("source", start + c * across)
            with loop("k", rows - row, row) as k:
                store(self.scratch, k * PANEL + c + ROWS * PANEL, buffer[source + k * down])

    def _chunk(self, inner: InnerKernel, batch: list[Expr], row: Expr, left: Expr, first: Expr, used: Expr) -> None:
        """Up to 24 rows times the panel."""
        frame = self.frame
        stride, step = (frame.size(s) for s in self.left.strides[-2:])
        start = let("a", self._start(self.left, self.batches[0], batch) + row * stride)
        rows = Rows(frame.buffer(self.left.source), start, stride, step)
        depth = self.sizes[2].value if self.sizes[2].value is not None else frame.size(self.sizes[2])
        height, width = (frame.size(size) for size in self.sizes[:2])
        image = index(0)
        for place, size in zip(batch, self.batch, strict=True):
            image = image * frame.size(size) + place

        def place_of(r: Expr) -> Place:
            flat = let("flat", (image * height + row + r) * width)
            return Place(flat, lambda: (*batch, row + r))

        panel = Panel(self.scratch, index(ROWS * PANEL))
        self.output.multiply(inner, Part(left, place_of, width, first, used), rows, panel, Reduction(depth))
