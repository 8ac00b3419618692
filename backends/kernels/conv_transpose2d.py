"""nn.conv_transpose2d in nhwc with weights known when compiling: output pixels gather their taps, nothing is scattered.

Output pixels whose places have the same remainder by the strides (a phase) use the same taps: for them the operation is
a convolution of stride 1 with a part of the kernel. A tile is up to 24 pixels of one phase of one output row; the input
that they read is copied into scratch with its padding, as in `conv2d.py`.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels import linear
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, loop, opaque
from nomul.backends.tir.gemm import InnerKernel, Panel, Reduction, Rows
from nomul.backends.tir.output import Output, Part, Place
from nomul.backends.tir.register_tile import MOST_SLACK, PANEL, RegisterTile
from nomul.backends.tir.strip import Strip
from nomul.ir.dim import Dim, ceil_div

PIXELS = 24  # of one phase, in a tile
_THREAD_WORK = 400_000  # multiply-adds worth a thread

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    assert group.anchor is not None
    attrs = group.anchor.attrs
    if attrs["layout"] != "nhwc":
        return "the layout is not nhwc"
    if attrs["groups"] != 1 or attrs["dilations"] != (1, 1):
        return "groups or dilations"
    return linear.image_refusal(group)


@kernel("nn.conv_transpose2d", accepts=refusal, rank=20)
def phases(group: Group, target: Target) -> Built:
    """f32 weights."""
    return _build(group, target, "float32")


@kernel("nn.conv_transpose2d", encoding="f16", accepts=refusal, rank=20)
def phases_f16(group: Group, target: Target) -> Built:
    """f16 weights, widened as they are loaded."""
    return _build(group, target, "uint16")


@kernel("nn.conv_transpose2d", encoding="bf16", accepts=refusal, rank=20)
def phases_bf16(group: Group, target: Target) -> Built:
    """bf16 weights, widened as they are loaded."""
    return _build(group, target, "uint16")


def _build(group: Group, target: Target, stored: str) -> Built:
    assert group.anchor is not None
    w = group.anchor.args[1]
    assert w is not None
    position = group.func.params.index(w)
    with KernelFrame(group, target, {position: [stored]}) as frame:
        body = _Transposed(frame, stored)
        body.emit()
    stride_h, stride_w = body.strides
    taps = body.kernel[0] * body.kernel[1] / (stride_h * stride_w)
    work = int(PIXELS * body.channels[0] * body.channels[1] * taps)
    batch, height, *_ = group.anchor.result.shape
    return Built(
        frame.function,
        tiles=batch * height * stride_w * body.strips,
        grain=max(1, _THREAD_WORK // max(1, work)),
        scratch=Dim.of(PIXELS * PANEL * 4 + body.strip.bytes(MOST_SLACK)),
        layouts={position: f"conv_transpose_panel32:{stride_h}:{stride_w}"},
        inplace=linear.inplace_operands(group),
    )


class _Transposed:
    """Emits the body of one kernel. strips: tiles along one phase of an output row."""

    def __init__(self, frame: KernelFrame, stored: str) -> None:
        node = frame.group.anchor
        assert node is not None
        x, w, bias = (*node.args, None)[:3]
        assert x is not None and w is not None
        self.frame, self.node = frame, node
        self.kernel, self.strides = (int(w.shape[2]), int(w.shape[3])), node.attrs["strides"]
        self.channels = (int(w.shape[0]), int(w.shape[1]))
        self.panels = -(-self.channels[1] // PANEL)
        self.strips = ceil_div(ceil_div(node.result.shape[2], self.strides[1]), PIXELS)
        self.tile = RegisterTile.of(frame.target, self.channels[1], decoded=w.type.encoding is not None)
        self.output = Output(frame, node, bias, frame.target.vector_bytes // 4, Dim.of(self.channels[1]))
        self.weights = buffer_at("weights", stored, frame.pointers[w][0])
        self.decode = linear.weight_decoder(w.type.encoding.name if w.type.encoding else None, frame.target)
        lines, columns = (-(-size // stride) for size, stride in zip(self.kernel, self.strides, strict=True))
        self.strip = Strip(frame, x, (lines, PIXELS + columns - 1), self.channels[0], PIXELS * PANEL)

    def emit(self) -> None:
        frame, (stride_h, stride_w), pads = self.frame, self.strides, self.node.attrs["pads"]
        zero = opaque(frame.begin, 0.0)
        inner = InnerKernel(self.tile, range(1, PIXELS + 1), padded=True, zero=zero)
        batch, height, width, _ = (frame.size(size) for size in self.node.result.shape)
        sizes = [batch, height, index(stride_w), frame.size(self.strips)]
        with loop("tile", frame.end - frame.begin, frame.begin) as number:
            image, y, phase, strip = split_index(number, sizes)
            first = let("first", strip * PIXELS)
            count = let("count", tirx.truncdiv(width - phase + (stride_w - 1), index(stride_w)))
            pixels = let("pixels", tirx.max(tirx.min(index(PIXELS), count - first), index(0)))
            last_row, row_phase = _divide(y + pads[0], stride_h)
            last_column, column_phase = _divide(phase + pads[1], stride_w)
            row_taps = let("row_taps", _taps(row_phase, self.kernel[0], stride_h))
            column_taps = let("column_taps", _taps(column_phase, self.kernel[1], stride_w))
            corner = (let("top", last_row - row_taps + 1), let("left", last_column + first - column_taps + 1))
            self.strip.fill(image, corner, row_taps, let("used", pixels + column_taps - 1))
            before = _taps_before(row_phase, self.kernel[0], stride_h) * self.kernel[1]
            before = before + row_taps * _taps_before(column_phase, self.kernel[1], stride_w)
            start = let("start", before * (self.panels * PANEL * self.channels[0]))
            over = Reduction(let("run", column_taps * self.channels[0]), ((row_taps, self.strip.line),))
            pixel = let("pixel", (image * height + y) * width + phase + first * stride_w)
            lead = (image, y, phase + first * stride_w)
            with loop("panel", self.panels) as panel:
                depth = row_taps * column_taps * self.channels[0]
                weights = Panel(self.weights, let("b", start + panel * depth * PANEL), self.decode)
                self._panel(inner, panel, pixels, weights, over, pixel, lead)

    def _panel(
        self,
        inner: InnerKernel,
        panel: Expr,
        pixels: Expr,
        weights: Panel,
        over: Reduction,
        pixel: Expr,
        lead: tuple[Expr, Expr, Expr],
    ) -> None:
        """The pixels of a tile times one panel. pixel: the first one's number.  lead: its place."""
        stride = self.strides[1]
        rows = Rows(self.strip.buffer, index(self.strip.start), self.strip.channels)
        column = let("column", panel * PANEL)
        used = let("used", tirx.min(index(PANEL), index(self.channels[1]) - column))

        def place(r: Expr) -> Place:
            flat = let("flat", (pixel + r * stride) * self.channels[1])
            return Place(flat, lambda: (lead[0], lead[1], lead[2] + r * stride))

        self.output.multiply(inner, Part(pixels, place, stride * self.channels[1], column, used), rows, weights, over)


def _divide(value: Expr, divisor: int) -> tuple[Expr, Expr]:
    """Quotient and remainder of a number that is not negative."""
    quotient = let("quotient", tirx.truncdiv(value, index(divisor)))
    return quotient, let("phase", value - quotient * divisor)


def _taps(phase: Expr, kernel: int, stride: int) -> Expr:
    """How many taps of the kernel a phase has along one axis."""
    return tirx.truncdiv(index(kernel + stride - 1) - phase, index(stride))


def _taps_before(phase: Expr, kernel: int, stride: int) -> Expr:
    """Taps of all phases before this one: the first `kernel % stride` phases have one more than the others."""
    return phase * (kernel // stride) + tirx.min(phase, index(kernel % stride))
