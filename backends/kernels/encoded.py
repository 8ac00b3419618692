"""nn.linear and nn.conv2d with encoded weights of any kind, and their products of eight-bit integers.

A tile is 24 rows x 32 columns of the result, as in `linear.py`. The weights of 32 columns are unpacked into scratch by
the encoding's decoder (`backends/decoders/`), once for all row tiles of a panel that follow each other; then they are
multiplied as dense ones: f32 by `backends/tir/gemm.py`, integers by a loop that LLVM makes vectors of. These are plain
kernels for every encoding and machine; faster ones for one encoding outrank them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tvm import tirx

from nomul.backends.decoders import decoders, sides_of
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import linear
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, store, when
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.gemm import InnerKernel, Panel, Reduction, Rows
from nomul.backends.tir.integer_gemm import IntegerProduct
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.row_source import RowSource, TensorRows, Windows
from nomul.backends.tir.scratch import Region, Scratch
from nomul.backends.tir.unpack import FloatPanel, IntegerPanel
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Node, Value

ROWS = linear.ROWS
RANK = 10
_THREAD_WORK = 32 * 1024  # weights worth a thread

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if "layout" not in anchor.attrs:
        return linear.refusal(group) if anchor.op == "nn.linear" else integer_refusal(group)
    if anchor.attrs["layout"] != "nhwc":
        return "the layout is not nhwc"
    if anchor.attrs["groups"] != 1:
        return "the convolution has groups"
    return linear.image_refusal(group) if anchor.op == "nn.conv2d" else integer_refusal(group)


def integer_refusal(group: Group) -> str | None:
    """The same for a product of integers, whatever its sizes."""
    anchor = group.anchor
    assert anchor is not None
    q, scale, w, *rest = anchor.args
    if len(group.func.returns) != 1:
        return "more than one result"
    if w not in group.func.params or group.func.params.index(w) not in group.weights:
        return "the weights are not known when compiling"
    if any(value is not None and value.producer is not None for value in (q, scale, *rest)):
        return "an operand is computed inside the group"
    encoding = w.type.encoding
    if encoding is None or not encoding.is_integer:
        return "the weights have no integer form"
    return "operands are not f32" if str(w.dtype) != "f32" else None


def unpacked(group: Group, target: Target) -> Built:
    """Weights in f32 in scratch."""
    return build(group, target, FloatProduct)


def integers(group: Group, target: Target) -> Built:
    """Integer weights in scratch, times the integers of nn.quantise."""
    return build(group, target, _QuantisedProduct)


def build(
    group: Group,
    target: Target,
    body: Callable[[KernelFrame, Node], _Product],
    fields: Mapping[int, Sequence[str]] | None = None,
    layouts: Mapping[int, str] | None = None,
) -> Built:
    """fields, layouts: by position, of weights that are packed (`KernelFrame`, `Built`)."""
    assert group.anchor is not None
    with KernelFrame(group, target, fields) as frame:
        made = body(frame, group.anchor)
        made.emit()
    return Built(
        frame.function,
        tiles=ceil_div(made.source.count, ROWS) * (-(-made.width // PANEL)),
        grain=max(1, _THREAD_WORK // (made.source.depth * PANEL)),
        scratch=Dim.of(made.scratch.bytes),
        layouts=dict(layouts or {}),
        inplace=linear.inplace_operands(group),
    )


class _Product:
    """Emits the body of one kernel. w, bias: the anchor's operands.  element: TIR's type of the rows' elements."""

    element = "float32"

    def __init__(self, frame: KernelFrame, anchor: Node, w: Value, bias: Value | None) -> None:
        self.frame, self.anchor, self.width = frame, anchor, int(w.shape[0])
        self.scratch = Scratch(frame)
        self.sums = self.scratch.region("float32", ROWS * PANEL)  # `Output` expects them first
        self.source = self._source()
        self.output = Output(frame, anchor, bias, frame.target.vector_bytes // 4, Dim.of(self.width))
        self._unpacked = local("unpacked", "int64", 1)

    def _source(self) -> RowSource:
        x = self.anchor.args[0]
        assert x is not None
        if "layout" in self.anchor.attrs and not Geometry(self.anchor).is_pointwise:
            return Windows(self.frame, self.anchor, self.element, self.scratch, ROWS)
        view = linear.row_view(x)
        assert view is not None
        return TensorRows(self.frame, x, view.stride)

    def emit(self) -> None:
        store(self._unpacked, 0, index(-1))
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as number:
            row_bytes = self.source.depth * (4 if self.element == "float32" else 1)
            panel, first = linear.tile_position(self.frame, number, self.source.count, self.width, row_bytes)
            with when(tirx.NE(self._unpacked[0], panel)):
                self.unpack(let("column", panel * PANEL))
                store(self._unpacked, 0, panel)
            left = let("rows", tirx.min(index(ROWS), self.frame.size(self.source.count) - first))
            column = let("column", panel * PANEL)
            used = let("used", tirx.min(index(PANEL), index(self.width) - column))

            rows = self.source.fetch(first, left)
            self.multiply(rows, first, Part(left, self.place_behind(first), self.width, column, used))

    def place_behind(self, first: Expr) -> Callable[[Expr], Place]:
        """Where rows of the result are, counted from row `first`."""

        def place(row: Expr) -> Place:
            return Place(let("flat", (first + row) * self.width), lambda: self.source.lead(first + row))

        return place

    def unpack(self, first: Expr) -> None:
        """Unpack the weights of a panel."""
        raise NotImplementedError

    def multiply(self, rows: Rows, first: Expr, part: Part) -> None:
        """Rows, the first of which is row `first` of all, times the panel that is unpacked."""
        raise NotImplementedError


class Floats(Protocol):
    """A panel of f32 weights in scratch, [depth, 32]. region: where."""

    region: Region

    def fill(self, first: Expr) -> None:
        """Unpack rows of the weights from `first` on, a multiple of 32."""
        ...


class FloatProduct(_Product):
    """Weights in f32 in scratch."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        w, bias = (*anchor.args, None)[1:3]
        assert w is not None
        super().__init__(frame, anchor, w, bias)
        self.panel = self.make_panel(w)
        tile = RegisterTile.of(frame.target, self.width)
        self.inner = InnerKernel(tile, linear.row_counts(self.source.count, ROWS, frame.group.ranges))

    def make_panel(self, w: Value) -> Floats:
        return FloatPanel(sides_of(self.frame.packed_weight(w)), self.width, self.source.depth, self.scratch)

    def unpack(self, first: Expr) -> None:
        self.panel.fill(first)

    def multiply(self, rows: Rows, first: Expr, part: Part) -> None:
        region = self.panel.region
        panel = Panel(region.buffer, index(region.start))
        self.output.multiply(self.inner, part, rows, panel, Reduction(self.source.depth))


class _QuantisedProduct(_Product):
    element = "int8"

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        scale, w, bias = (*anchor.args, None)[1:4]
        assert scale is not None and w is not None
        super().__init__(frame, anchor, w, bias)
        self._scale = scale
        self.panel = IntegerPanel(sides_of(frame.packed_weight(w)), self.width, self.scratch)
        self.product = IntegerProduct(self.panel.terms, self.source.depth, ROWS, self.scratch, frame.target)

    def unpack(self, first: Expr) -> None:
        self.panel.fill(first)

    def multiply(self, rows: Rows, first: Expr, part: Part) -> None:
        self.product.emit(rows, part, self.sums, lambda row: self._row_scale(first + row))
        self.output.write_rows(part)

    def _row_scale(self, row: Expr) -> Expr:
        """Each row of a linear layer has a scale, or each image."""
        if "layout" in self.anchor.attrs:
            row = self.source.lead(row)[0]
        return let("row_scale", self.frame.read_flat(self._scale, row))


for _encoding in decoders():
    for _op in ("nn.linear", "nn.conv2d"):
        kernel(_op, encoding=_encoding, accepts=refusal, rank=RANK)(unpacked)
    for _op in ("nn.quantised_linear", "nn.quantised_conv2d"):
        kernel(_op, encoding=_encoding, accepts=refusal, rank=RANK)(integers)
