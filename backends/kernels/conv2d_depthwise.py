"""nn.conv2d with one kernel per channel, in nhwc: channels in the lanes, a run of output pixels in registers.

A tile is a strip of output pixels and a share of the channels, in blocks of 16. The input of one block is copied into
scratch with its padding, small enough for the first-level cache, so the inner loop has no border cases. Each input
vector is loaded once per kernel row and serves up to KW outputs; R output pixels take (R - 1) * stride + KW + KW loads
for R * KW multiply-adds. Integer weights are unpacked into scratch, once for a strip and block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes import encodings_with_codes
from nomul.backends.dot_codes.depthwise import TapShape, tap_shape
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels import encoded, linear
from nomul.backends.layouts.depthwise16 import BLOCK
from nomul.backends.mathlib import fma
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, local, loop, opaque, store, when
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.strip import Strip
from nomul.backends.tir.tap_weights import FIELDS, TapWeights
from nomul.backends.tir.vectors import lanes_at, load, store_vector, zeros
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value

PIXELS = 32  # of a strip, at most
_STRIP_BYTES = 24 * 1024  # of the first-level cache
_MOST_ROWS = 8
_SHORT = 1.2  # by how much more short rows must save, for they begin more often
_RUN = {16: 4, 32: 8}  # vector registers of the machine: output pixels side by side
_TOGETHER = 2  # vectors of channels on NEON, whose cores need more independent sums than others have registers for
_WIDEST = 15  # taps along a row: beyond, the unrolled code is too long
_THREAD_WORK = 100_000  # multiply-adds worth a thread
_TILES = 16

Expr = Any
Window = tuple[tuple[Expr, Expr], Expr, Expr]  # of `Geometry.input_window`


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    if group.anchor.attrs["layout"] != "nhwc":
        return "the layout is not nhwc"
    geometry = Geometry(group.anchor)
    if not geometry.is_depthwise:
        return "not depthwise"
    if geometry.kernel[1] > _WIDEST:
        return f"more than {_WIDEST} taps along a row"
    is_quantised = group.anchor.op == "nn.quantised_conv2d"
    return encoded.integer_refusal(group) if is_quantised else linear.image_refusal(group)


def strip_size(node: Node) -> tuple[int, int]:
    """Output rows and pixels along a row of one tile: those that fit the cache and copy the least input for an output,
    so tall kernels get shorter rows, but more of them to share lines."""
    height, width = (size.value for size in Geometry(node).out)
    widths = {min(pixels, width or pixels) for pixels in (PIXELS, PIXELS // 2)}
    sizes = [(_strip_rows(node, pixels, height or _MOST_ROWS), pixels) for pixels in widths]

    def copied(size: tuple[int, int]) -> float:
        strip = Geometry(node, size)
        return strip.lines * strip.line_pixels / (size[0] * size[1])

    return min(sizes, key=lambda size: (copied(size) * (1 if size[1] == max(widths) else _SHORT), -size[1]))


def _strip_rows(node: Node, pixels: int, most: int) -> int:
    rows = 1
    while rows < min(_MOST_ROWS, most):
        larger = Geometry(node, (rows + 1, pixels))
        if larger.lines * larger.line_pixels * BLOCK * 4 > _STRIP_BYTES:
            break
        rows += 1
    return rows


def integer_refusal(group: Group) -> str | None:
    """The same where weights are encoded, and inputs perhaps quantised."""
    reason = refusal(group)
    if reason is not None:
        return reason
    shape = shape_of(group)
    return shape if isinstance(shape, str) else None


def shape_of(group: Group) -> TapShape | str:
    """Of the weights of a group that has encoded ones."""
    assert group.anchor is not None
    w = weights_of(group.anchor)
    assert w.type.encoding is not None
    return tap_shape(w.type.encoding, Geometry(group.anchor).weights)


def weights_of(anchor: Node) -> Value:
    w = anchor.args[2 if anchor.op == "nn.quantised_conv2d" else 1]
    assert w is not None
    return w


@kernel("nn.conv2d", accepts=refusal, rank=30)
def depthwise(group: Group, target: Target) -> Built:
    """f32 weights."""
    return build(group, target, Depthwise, ["float32"], "depthwise16")


@kernel("nn.conv2d", encoding="f16", accepts=refusal, rank=30)
def depthwise_f16(group: Group, target: Target) -> Built:
    """f16 weights, widened as they are loaded."""
    return build(group, target, Depthwise, ["uint16"], "depthwise16")


@kernel("nn.conv2d", encoding="bf16", accepts=refusal, rank=30)
def depthwise_bf16(group: Group, target: Target) -> Built:
    """bf16 weights, widened as they are loaded."""
    return build(group, target, Depthwise, ["uint16"], "depthwise16")


def depthwise_integers(group: Group, target: Target) -> Built:
    """Integer weights, and inputs in floats."""
    return build(group, target, Unpacked, FIELDS, "depthwise_codes")


def build(
    group: Group, target: Target, body: Callable[[KernelFrame, Geometry], Depthwise], fields: list[str], layout: str
) -> Built:
    """fields: TIR's element types of the packed weights."""
    assert group.anchor is not None
    geometry = Geometry(group.anchor, strip_size(group.anchor))
    position = group.func.params.index(weights_of(group.anchor))
    with KernelFrame(group, target, {position: fields}) as frame:
        made = body(frame, geometry)
        made.emit()
    taps = geometry.kernel[0] * geometry.kernel[1]
    work = geometry.strip[0] * geometry.strip[1] * geometry.channels[0] * taps // made.shares
    return Built(
        frame.function,
        tiles=geometry.pixel_tiles * made.shares,
        grain=max(1, _THREAD_WORK // work),
        scratch=Dim.of(made.scratch.bytes),
        layouts={position: layout},
        inplace=linear.inplace_operands(group),
    )


class Depthwise:
    """Emits the body of one kernel. run: output pixels summed side by side.  together: vectors of channels too.

    shares: tiles that split the channels."""

    def __init__(self, frame: KernelFrame, geometry: Geometry) -> None:
        self.frame, self.geometry, self.weight = frame, geometry, weights_of(geometry.node)
        self.lanes = frame.target.vector_bytes // 4
        self.run = _run_length(geometry.strip[1], _RUN[frame.target.registers])
        self.together = _TOGETHER if frame.target.by_lane else 1
        self.blocks = -(-geometry.channels[0] // BLOCK)
        low = geometry.pixel_tiles.bounds(frame.group.ranges)[0]
        self.shares = min(self.blocks, -(-_TILES // max(1, int(low))))
        bias = geometry.node.operand(3 if geometry.node.op == "nn.quantised_conv2d" else 2)
        self.output = Output(frame, geometry.node, bias, self.lanes, Dim.of(geometry.channels[0]), BLOCK)
        self.is_direct = self.output.is_short and geometry.channels[0] % BLOCK == 0
        self.scratch = Scratch(frame)
        self.scratch.region("float32", max(_RUN.values()) * BLOCK)  # `Output` expects its sums first
        self.registers = local("registers", "float32", self.run * self.together * self.lanes)
        self.make_strip()
        self.make_weights()

    def make_strip(self) -> None:
        """The memory that the input of a strip is copied to."""
        x, geometry = self.geometry.node.args[0], self.geometry
        assert x is not None
        slack = max(_RUN.values()) * geometry.attrs["strides"][1]  # pixels that are read in vain
        size = geometry.lines, geometry.line_pixels
        region = self.scratch.region("float32", (size[0] * size[1] + slack) * BLOCK)
        self.strip = Strip(self.frame, x, size, BLOCK, region.start, geometry.line_spacing)

    def make_weights(self) -> None:
        encoding = self.weight.type.encoding
        stored = "uint16" if encoding else "float32"
        self.weights = buffer_at("weights", stored, self.frame.pointers[self.weight][0])
        self.decode = linear.weight_decoder(encoding.name if encoding else None, self.frame.target)

    def first_weight(self, block: Expr) -> Expr:
        """Where the weights of a block begin, [KH, KW, 16]."""
        return block * (self.geometry.kernel[0] * self.geometry.kernel[1] * BLOCK)

    def fill(self, image: Expr, window: Window, block: Expr) -> None:
        """Copy the input of a strip and block."""
        self.strip.fill(image, *window, block)

    def begin(self, image: Expr, block: Expr) -> None:
        """What else comes before the runs of a strip and block."""

    def emit(self) -> None:
        frame, geometry = self.frame, self.geometry
        sizes = [index(self.shares), *(frame.size(size) for size in (geometry.batch, *geometry.strips))]
        with loop("tile", frame.end - frame.begin, frame.begin) as number:
            share, image, strip_y, strip_x = split_index(number, sizes)
            y, x = let("y", strip_y * geometry.strip[0]), let("x", strip_x * geometry.strip[1])
            pixels = let("pixels", tirx.min(index(geometry.strip[1]), frame.size(geometry.out[1]) - x))
            rows = let("rows", tirx.min(index(geometry.strip[0]), frame.size(geometry.out[0]) - y))
            first = let("first", tirx.truncdiv(share * self.blocks, index(self.shares)))
            last = let("last", tirx.truncdiv((share + 1) * self.blocks, index(self.shares)))
            with loop("block", last - first, first) as block:
                self.fill(image, geometry.input_window(y, x, rows, pixels), block)
                self.begin(image, block)
                with (
                    loop("row", rows) as row,
                    loop("run", tirx.truncdiv(pixels + (self.run - 1), index(self.run))) as run,
                ):
                    self._run(block, image, y + row, x, row, let("pixel", run * self.run), pixels)

    def _run(self, block: Expr, image: Expr, y: Expr, x: Expr, row: Expr, pixel: Expr, pixels: Expr) -> None:
        """`run` output pixels of one row, for one block of channels."""
        height, width = (self.frame.size(size) for size in self.geometry.out)
        channel = let("channel", block * BLOCK)
        first_pixel = let("first_pixel", (image * height + y) * width + x + pixel)
        source = let("source", self.source(row, pixel))

        def place(p: Expr) -> Place:
            flat = let("flat", (first_pixel + p) * self.geometry.channels[0])
            return Place(flat, lambda: (image, y, x + pixel + p))

        with loop("vector", BLOCK // (self.lanes * self.together)) as vector:
            start = let("start", vector * (self.lanes * self.together))
            self.sum(source + start, block, start)
            for p in range(self.run):
                finished = [(start + v * self.lanes, self.finished(at)) for v, at in self.sums(p)]
                if not self.is_direct:
                    for offset, sums in finished:
                        store_vector(self.output.sums, p * BLOCK + offset, sums)
                    continue
                with when(pixel + p < pixels):
                    for offset, sums in finished:
                        self.output.write(place(index(p)), channel + offset, sums)
        if not self.is_direct:
            count = let("count", tirx.min(index(self.run), pixels - pixel))
            used = let("used", tirx.min(index(BLOCK), index(self.geometry.channels[0]) - channel))
            self.output.write_rows(Part(count, place, self.geometry.channels[0], channel, used))

    def source(self, row: Expr, pixel: Expr) -> Expr:
        """Where the window of an output pixel begins in the strip."""
        stride_h, stride_w = self.geometry.attrs["strides"]
        return row * (stride_h * self.strip.line) + pixel * (stride_w * BLOCK) + self.strip.start

    def sum(self, source: Expr, block: Expr, channel: Expr) -> None:
        """Sums of `run` pixels, for `together` vectors of channels of a block from `channel` on."""
        self.accumulate(source, self.first_weight(block), channel)

    def finished(self, place: int) -> Expr:
        """The sums that have this place in the registers."""
        return load(self.registers, place, self.lanes)

    def sums(self, pixel: int) -> list[tuple[int, int]]:
        """(which of the vectors side by side, place in the registers) of one output pixel."""
        return [(v, (pixel * self.together + v) * self.lanes) for v in range(self.together)]

    def accumulate(self, source: Expr, weights: Expr, offset: Expr) -> None:
        """The channels of `together` vectors of `run` pixels, into the registers. weights: where those of all taps
        begin, [KH, KW, 16]."""
        (kernel_h, kernel_w), stride = self.geometry.kernel, int(self.geometry.attrs["strides"][1])
        dilation = int(self.geometry.attrs["dilations"][1])
        for place in range(self.run * self.together):
            store(self.registers, lanes_at(place * self.lanes, self.lanes), zeros(self.lanes))
        with loop("tap_row", opaque(self.frame.begin, kernel_h)) as tap_row:  # unrolled, it would run out of registers
            line = let("line", source + tap_row * (self.geometry.tap_lines * self.strip.line))
            taps = let("taps", weights + tap_row * (kernel_w * BLOCK) + offset)
            inputs: dict[int, Expr] = {}
            for tap in range(kernel_w):
                for v in range(self.together):
                    part = v * self.lanes
                    weight = let("weight", self.decode(load(self.weights, taps + (tap * BLOCK + part), self.lanes)))
                    for p in range(self.run):
                        column = (p * stride + tap * dilation) * BLOCK + part
                        if column not in inputs:
                            inputs[column] = let("input", load(self.strip.buffer, line + column, self.lanes))
                        place = lanes_at(self.sums(p)[v][1], self.lanes)
                        sums = tirx.BufferLoad(self.registers, [place])
                        store(self.registers, place, fma(inputs[column], weight, sums))


class Unpacked(Depthwise):
    """Integer weights times their scales, in scratch."""

    def make_weights(self) -> None:
        shape = shape_of(self.frame.group)
        assert isinstance(shape, TapShape)
        self.taps = TapWeights(self.frame, self.weight, shape, self.lanes)
        self.region = self.scratch.region("float32", self.geometry.kernel[0] * self.geometry.kernel[1] * BLOCK)
        self.weights, self.decode = self.region.buffer, lambda weight: weight

    def first_weight(self, block: Expr) -> Expr:
        return index(self.region.start)

    def begin(self, image: Expr, block: Expr) -> None:
        self.taps.unpack(self.region, block, scaled=True)


def _run_length(pixels: int, most: int) -> int:
    """Output pixels side by side: a number that divides the strip where one of at least half the most does."""
    if pixels <= most:
        return pixels
    return next((run for run in range(most, most // 2, -1) if pixels % run == 0), most)


for _encoding in encodings_with_codes():
    kernel("nn.conv2d", encoding=_encoding, accepts=integer_refusal, rank=30)(depthwise_integers)
