"""nn.conv2d with one kernel per channel, in nhwc: channels in the lanes, a run of output pixels in registers.

A tile is a strip of output pixels and a share of the channels, in blocks of 16. The input of one block is copied into
scratch with its padding, small enough for the first-level cache, so the inner loop has no border cases. Each input
vector is loaded once per kernel row and serves up to KW outputs; R output pixels take (R - 1) * stride + KW + KW loads
for R * KW multiply-adds.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels import linear
from nomul.backends.layouts.depthwise16 import BLOCK
from nomul.backends.mathlib import fma
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, local, loop, opaque, store, when
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.strip import Strip
from nomul.backends.tir.vectors import lanes_at, load, store_vector, zeros
from nomul.ir.dim import Dim
from nomul.ir.graph import Node

PIXELS = 32  # of a strip, at most
_STRIP_BYTES = 24 * 1024  # of the first-level cache
_MOST_ROWS = 8
_RUN = {16: 4, 32: 8}  # vector registers of the machine: output pixels side by side
_TOGETHER = 2  # vectors of channels on NEON, whose cores need more independent sums than others have registers for
_WIDEST = 15  # taps along a row: beyond, the unrolled code is too long
_THREAD_WORK = 100_000  # multiply-adds worth a thread
_TILES = 16

Expr = Any


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
    return linear.image_refusal(group)


def strip_size(node: Node) -> tuple[int, int]:
    """Output rows and pixels along a row of one tile: as many rows as fit the cache, so that they share input rows."""
    height, width = (size.value for size in Geometry(node).out)
    pixels = min(PIXELS, width or PIXELS)
    rows = 1
    while rows < min(_MOST_ROWS, height or _MOST_ROWS):
        larger = Geometry(node, (rows + 1, pixels))
        if larger.lines * larger.line_pixels * BLOCK * 4 > _STRIP_BYTES:
            break
        rows += 1
    return rows, pixels


@kernel("nn.conv2d", accepts=refusal, rank=30)
def depthwise(group: Group, target: Target) -> Built:
    """f32 weights."""
    return _build(group, target, "float32")


@kernel("nn.conv2d", encoding="f16", accepts=refusal, rank=30)
def depthwise_f16(group: Group, target: Target) -> Built:
    """f16 weights, widened as they are loaded."""
    return _build(group, target, "uint16")


@kernel("nn.conv2d", encoding="bf16", accepts=refusal, rank=30)
def depthwise_bf16(group: Group, target: Target) -> Built:
    """bf16 weights, widened as they are loaded."""
    return _build(group, target, "uint16")


def _build(group: Group, target: Target, stored: str) -> Built:
    assert group.anchor is not None
    geometry = Geometry(group.anchor, strip_size(group.anchor))
    w = group.anchor.args[1]
    assert w is not None
    position = group.func.params.index(w)
    with KernelFrame(group, target, {position: [stored]}) as frame:
        body = _Depthwise(frame, geometry, stored)
        body.emit()
    taps = geometry.kernel[0] * geometry.kernel[1]
    work = geometry.strip[0] * geometry.strip[1] * geometry.channels[0] * taps // body.shares
    return Built(
        frame.function,
        tiles=geometry.pixel_tiles * body.shares,
        grain=max(1, _THREAD_WORK // work),
        scratch=Dim.of(
            max(_RUN.values()) * BLOCK * 4 + body.strip.bytes(max(_RUN.values()) * geometry.attrs["strides"][1])
        ),
        layouts={position: "depthwise16"},
        inplace=linear.inplace_operands(group),
    )


class _Depthwise:
    """Emits the body of one kernel. run: output pixels summed side by side.  together: vectors of channels too.

    shares: tiles that split the channels."""

    def __init__(self, frame: KernelFrame, geometry: Geometry, stored: str) -> None:
        x, w, bias = (*geometry.node.args, None)[:3]
        assert x is not None and w is not None
        self.frame, self.geometry = frame, geometry
        self.lanes = frame.target.vector_bytes // 4
        self.run = _run_length(geometry.strip[1], _RUN[frame.target.registers])
        self.together = _TOGETHER if frame.target.by_lane else 1
        self.blocks = -(-geometry.channels[0] // BLOCK)
        low = geometry.pixel_tiles.bounds(frame.group.ranges)[0]
        self.shares = min(self.blocks, -(-_TILES // max(1, int(low))))
        self.output = Output(frame, geometry.node, bias, self.lanes, Dim.of(geometry.channels[0]), BLOCK)
        self.weights = buffer_at("weights", stored, frame.pointers[w][0])
        self.decode = linear.weight_decoder(w.type.encoding.name if w.type.encoding else None, frame.target)
        self.is_direct = self.output.is_short and geometry.channels[0] % BLOCK == 0
        self.strip = Strip(
            frame,
            x,
            (geometry.lines, geometry.line_pixels),
            BLOCK,
            max(_RUN.values()) * BLOCK,
            geometry.line_spacing,
        )
        self.registers = local("registers", "float32", self.run * self.together * self.lanes)

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
                self.strip.fill(image, *geometry.input_window(y, x, rows, pixels), block)
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
        stride_h, stride_w = self.geometry.attrs["strides"]
        offset = row * (stride_h * self.strip.line) + pixel * (stride_w * BLOCK)
        source = let("source", offset + self.strip.start)

        def place(p: Expr) -> Place:
            flat = let("flat", (first_pixel + p) * self.geometry.channels[0])
            return Place(flat, lambda: (image, y, x + pixel + p))

        with loop("vector", BLOCK // (self.lanes * self.together)) as vector:
            start = let("start", vector * (self.lanes * self.together))
            self._accumulate(source + start, block, start)
            for p in range(self.run):
                finished = [(start + v * self.lanes, load(self.registers, at, self.lanes)) for v, at in self._sums(p)]
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

    def _sums(self, pixel: int) -> list[tuple[int, int]]:
        """(which of the vectors side by side, place in the registers) of one output pixel."""
        return [(v, (pixel * self.together + v) * self.lanes) for v in range(self.together)]

    def _accumulate(self, source: Expr, block: Expr, offset: Expr) -> None:
        """The channels of `together` vectors of `run` pixels, into the registers."""
        (kernel_h, kernel_w), stride = self.geometry.kernel, int(self.geometry.attrs["strides"][1])
        dilation = int(self.geometry.attrs["dilations"][1])
        for place in range(self.run * self.together):
            store(self.registers, lanes_at(place * self.lanes, self.lanes), zeros(self.lanes))
        with loop("tap_row", opaque(self.frame.begin, kernel_h)) as tap_row:  # unrolled, it would run out of registers
            line = let("line", source + tap_row * (self.geometry.tap_lines * self.strip.line))
            taps = let("taps", (block * kernel_h + tap_row) * (kernel_w * BLOCK) + offset)
            inputs: dict[int, Expr] = {}
            for tap in range(kernel_w):
                for v in range(self.together):
                    part = v * self.lanes
                    weight = let("weight", self.decode(load(self.weights, taps + (tap * BLOCK + part), self.lanes)))
                    for p in range(self.run):
                        column = (p * stride + tap * dilation) * BLOCK + part
                        if column not in inputs:
                            inputs[column] = let("input", load(self.strip.buffer, line + column, self.lanes))
                        place = lanes_at(self._sums(p)[v][1], self.lanes)
                        sums = tirx.BufferLoad(self.registers, [place])
                        store(self.registers, place, fma(inputs[column], weight, sums))


def _run_length(pixels: int, most: int) -> int:
    """Output pixels side by side: a number that divides the strip where one of at least half the most does."""
    if pixels <= most:
        return pixels
    return next((run for run in range(most, most // 2, -1) if pixels % run == 0), most)
