"""nn.conv2d in layout nhwc with weights known when compiling: a product of pixels with packed weights, without im2col.

A tile is a strip of up to 24 output pixels of one row (of several rows where rows are short) and a share of the output
channels. The input that the strip needs is copied into scratch, with zeros for the padding: [rows, columns, C]. For one
kernel row the KW * C elements of a pixel stand contiguously there, and neighbouring pixels are stride * C apart, so the
inner kernel of `backends/tir/gemm.py` reads the strip as KH runs per sum. 1 x 1 kernels are plain linear layers over
pixels and read the input itself.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels import linear
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, loop
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.gemm import InnerKernel, Panel, Reduction, Rows
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.register_tile import MOST_SLACK, PANEL, RegisterTile
from nomul.backends.tir.strip import Strip
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

PIXELS = 24  # of a strip
_THREAD_WORK = 400_000  # multiply-adds worth a thread
_TILES = 16  # aimed at where an image is too small to give every thread a share of its pixels

Expr = Any


def strip_size(node: Node) -> tuple[int, int]:
    """Output rows and pixels along a row of one tile: several rows where rows are short."""
    geometry = Geometry(node)
    height, width = (size.value for size in geometry.out)
    pixels = min(PIXELS, width or PIXELS)
    if height is None or width is None or width > PIXELS:
        return 1, pixels
    return max(1, min(2 * PIXELS // pixels, height)), pixels


def refusal(group: Group) -> str | None:
    assert group.anchor is not None
    if group.anchor.attrs["layout"] != "nhwc":
        return "the layout is not nhwc"
    if Geometry(group.anchor).is_depthwise:
        return "depthwise"
    return linear.image_refusal(group)


@kernel("nn.conv2d", accepts=refusal, rank=20)
def strips(group: Group, target: Target) -> Built:
    """f32 weights."""
    return _build(group, target, "float32")


@kernel("nn.conv2d", encoding="f16", accepts=refusal, rank=20)
def strips_f16(group: Group, target: Target) -> Built:
    """f16 weights, widened as they are loaded."""
    return _build(group, target, "uint16")


@kernel("nn.conv2d", encoding="bf16", accepts=refusal, rank=20)
def strips_bf16(group: Group, target: Target) -> Built:
    """bf16 weights, widened as they are loaded."""
    return _build(group, target, "uint16")


def _build(group: Group, target: Target, stored: str) -> Built:
    assert group.anchor is not None
    geometry = Geometry(group.anchor, strip_size(group.anchor))
    layout = "conv_panel32" if geometry.groups == 1 else f"conv_panel32:{geometry.groups}"
    if geometry.is_pointwise:
        return linear.build(group, target, stored, layout)
    w = group.anchor.args[1]
    assert w is not None
    position = group.func.params.index(w)
    with KernelFrame(group, target, {position: [stored]}) as frame:
        body = _Convolution(frame, geometry, stored)
        body.emit()
    work = geometry.strip[0] * geometry.strip[1] * geometry.channels[1] * body.depth // body.shares
    return Built(
        frame.function,
        tiles=geometry.pixel_tiles * body.shares,
        grain=max(1, _THREAD_WORK // work),
        scratch=Dim.of(PIXELS * PANEL * 4 + body.strip.bytes(MOST_SLACK * geometry.attrs["strides"][1])),
        layouts={position: layout},
        inplace=linear.inplace_operands(group),
    )


class _Convolution:
    """Emits the body of one kernel. depth: elements of one sum.  shares: tiles that split the output channels."""

    def __init__(self, frame: KernelFrame, geometry: Geometry, stored: str) -> None:
        x, w, bias = (*geometry.node.args, None)[:3]
        assert x is not None and w is not None
        self.frame, self.geometry = frame, geometry
        taps = geometry.kernel[0] * geometry.kernel[1]
        self.depth = taps * geometry.channels[0] // geometry.groups
        self.group_width = geometry.channels[1] // geometry.groups
        self.group_panels = -(-self.group_width // PANEL)
        self.panels = self.group_panels * geometry.groups
        low = geometry.pixel_tiles.bounds(frame.group.ranges)[0]
        self.shares = min(self.panels, -(-_TILES // max(1, int(low))))
        self.tile = RegisterTile.of(frame.target, self.group_width, decoded=w.type.encoding is not None)
        self.output = Output(frame, geometry.node, bias, frame.target.vector_bytes // 4, Dim.of(self.group_width))
        self.weights = buffer_at("weights", stored, frame.pointers[w][0])
        self.decode = linear.weight_decoder(w.type.encoding.name if w.type.encoding else None, frame.target)
        self.strip = Strip(
            frame,
            x,
            (geometry.lines, geometry.line_pixels),
            geometry.channels[0],
            PIXELS * PANEL,
            geometry.line_spacing,
        )
        self.over = self._reduction()

    def _reduction(self) -> Reduction:
        """The elements of the strip that one sum runs over, in the order of the packed weights."""
        geometry, (kernel_h, kernel_w), channels = self.geometry, self.geometry.kernel, self.geometry.channels[0]
        dilation = geometry.attrs["dilations"][1]
        rows = ((kernel_h, geometry.tap_lines * self.strip.line),) if kernel_h > 1 else ()
        if geometry.groups == 1 and (dilation == 1 or kernel_w == 1):
            return Reduction(kernel_w * channels, rows)
        return Reduction(channels // geometry.groups, (*rows, (kernel_w, dilation * channels)))

    def emit(self) -> None:
        frame, geometry = self.frame, self.geometry
        counts = linear.row_counts(geometry.out[1], geometry.strip[1], frame.group.ranges)
        inner = InnerKernel(self.tile, counts, padded=True)
        down, across = (frame.size(size) for size in geometry.strips)
        sizes = [index(self.shares), frame.size(geometry.batch), down, across]
        with loop("tile", frame.end - frame.begin, frame.begin) as number:
            share, image, strip_y, strip_x = split_index(number, sizes)
            y, x = let("y", strip_y * geometry.strip[0]), let("x", strip_x * geometry.strip[1])
            pixels = let("pixels", tirx.min(index(geometry.strip[1]), frame.size(geometry.out[1]) - x))
            rows = let("rows", tirx.min(index(geometry.strip[0]), frame.size(geometry.out[0]) - y))
            self.strip.fill(image, *geometry.input_window(y, x, rows, pixels))
            first = let("first", tirx.truncdiv(share * self.panels, index(self.shares)))
            last = let("last", tirx.truncdiv((share + 1) * self.panels, index(self.shares)))
            with loop("panel", last - first, first) as panel, loop("row", rows) as row:
                self._row(inner, panel, image, y + row, x, row, pixels)

    def _row(self, inner: InnerKernel, panel: Expr, image: Expr, y: Expr, x: Expr, row: Expr, pixels: Expr) -> None:
        """One row of a strip times one panel."""
        strip, geometry, width = self.strip, self.geometry, self.frame.size(self.geometry.out[1])
        group = let("group", tirx.truncdiv(panel, index(self.group_panels)))
        in_group = let("in_group", panel - group * self.group_panels)
        first_channel = group * (geometry.channels[0] // geometry.groups)
        start = let("start", row * (geometry.attrs["strides"][0] * strip.line) + first_channel)
        pixel_step = geometry.attrs["strides"][1] * strip.channels
        rows = Rows(strip.buffer, strip.start + start, pixel_step)
        weights = Panel(self.weights, let("b", panel * (self.depth * PANEL)), self.decode)
        used = let("used", tirx.min(index(PANEL), index(self.group_width) - in_group * PANEL))
        first_pixel = let("first_pixel", (image * self.frame.size(self.geometry.out[0]) + y) * width + x)

        def place(r: Expr) -> Place:
            flat = let("flat", (first_pixel + r) * self.geometry.channels[1])
            return Place(flat, lambda: (image, y, x + r))

        column = let("column", group * self.group_width + in_group * PANEL)

        self.output.multiply(
            inner, Part(pixels, place, self.geometry.channels[1], column, used), rows, weights, self.over
        )
