"""Sizes of a convolution in layout nhwc, and of the strips of output pixels that its tiles are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Node


@dataclass(frozen=True)
class Geometry:
    """node: nn.conv2d or nn.quantised_conv2d in nhwc.  strip: output rows and pixels along a row of one tile."""

    node: Node
    strip: tuple[int, int] = (1, 1)

    @cached_property
    def attrs(self) -> dict[str, Any]:
        return self.node.attrs

    @cached_property
    def batch(self) -> Dim:
        return self.node.result.shape[0]

    @cached_property
    def out(self) -> tuple[Dim, Dim]:
        """Height and width of the result."""
        return self.node.result.shape[1], self.node.result.shape[2]

    @cached_property
    def weights(self) -> tuple[int, int, int, int]:
        """Sizes [O, I, KH, KW]."""
        w = self.node.args[2 if self.node.op == "nn.quantised_conv2d" else 1]
        assert w is not None
        o, i, height, width = (int(size) for size in w.shape)
        return o, i, height, width

    @property
    def kernel(self) -> tuple[int, int]:
        return self.weights[2:]

    @cached_property
    def channels(self) -> tuple[int, int]:
        """Of the input and of the result."""
        x = self.node.args[0]
        assert x is not None
        return int(x.shape[3]), self.weights[0]

    @property
    def groups(self) -> int:
        return int(self.attrs["groups"])

    @property
    def is_pointwise(self) -> bool:
        """Whether each output pixel reads the input pixel at its own place alone."""
        attrs = self.attrs
        plain = attrs["strides"] == (1, 1) and attrs["pads"] == (0, 0, 0, 0) and attrs["groups"] == 1
        return plain and self.kernel == (1, 1)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is convolved with a kernel of its own."""
        return self.groups > 1 and self.channels == (self.groups, self.groups)

    @property
    def strips(self) -> tuple[Dim, Dim]:
        """How many strips cover the height and the width of one image."""
        return ceil_div(self.out[0], self.strip[0]), ceil_div(self.out[1], self.strip[1])

    @property
    def pixel_tiles(self) -> Dim:
        """Strips of the whole batch."""
        return self.batch * self.strips[0] * self.strips[1]

    # -- the input that a strip reads ----------------------------------------------------------------------------
    @property
    def line_spacing(self) -> int:
        """Input rows from one line of a strip to the next: one output row needs only the rows of its taps."""
        return int(self.attrs["dilations"][0]) if self.strip[0] == 1 else 1

    @property
    def tap_lines(self) -> int:
        """Lines from one row of the kernel to the next."""
        return int(self.attrs["dilations"][0]) // self.line_spacing

    @property
    def lines(self) -> int:
        """Input rows of a strip."""
        return (self.strip[0] - 1) * int(self.attrs["strides"][0]) + (self.kernel[0] - 1) * self.tap_lines + 1

    @property
    def line_pixels(self) -> int:
        """Input pixels of one line of a strip."""
        stride, dilation = int(self.attrs["strides"][1]), int(self.attrs["dilations"][1])
        return (self.strip[1] - 1) * stride + (self.kernel[1] - 1) * dilation + 1

    def input_window(self, y: Any, x: Any, rows: Any, pixels: Any) -> tuple[tuple[Any, Any], Any, Any]:
        """(corner, lines, pixels) of the input that output pixels [y, y + rows) x [x, x + pixels) read."""
        (stride_h, stride_w), pads = self.attrs["strides"], self.attrs["pads"]
        corner = (y * stride_h - pads[0], x * stride_w - pads[1])
        lines = (rows - self.strip[0]) * stride_h + self.lines
        return corner, lines, (pixels - self.strip[1]) * stride_w + self.line_pixels
