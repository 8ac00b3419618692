"""The input of a strip of output pixels, copied into scratch with its padding: [lines, pixels, channels]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop, opaque, store
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.output import column_pieces
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Value

Expr = Any


class Strip:
    """start: where it begins in `buffer` (elements).  channels: of its pixels; fewer than the image's where a strip
    holds a block of them.  line: elements of a line.  row_step, pixel_step: from an output row or pixel to the next."""

    def __init__(self, frame: KernelFrame, x: Value, geometry: Geometry, channels: int, start: int) -> None:
        self._frame, self._x, self._geometry = frame, x, geometry
        self._lanes = frame.target.vector_bytes // 4
        self.start, self.channels = start, channels
        self.buffer = buffer_at("strip", "float32", frame.scratch)
        self.line = geometry.line_pixels * channels
        self.row_step = int(geometry.attrs["strides"][0]) * self.line
        self.pixel_step = int(geometry.attrs["strides"][1]) * channels

    def bytes(self, slack_pixels: int) -> int:
        """Size in scratch; so many output pixels behind the last one may be read too (and mean nothing)."""
        return (self._geometry.lines * self.line + slack_pixels * self.pixel_step) * 4

    def fill(self, image: Expr, y: Expr, x: Expr, rows: Expr, pixels: Expr, block: Expr | None = None) -> None:
        """Copy what the output pixels [y, y + rows) x [x, x + pixels) of an image read; of a block of channels only."""
        geometry, attrs = self._geometry, self._geometry.attrs
        (stride_h, stride_w), pads = attrs["strides"], attrs["pads"]
        height, width = (self._frame.size(size) for size in self._x.shape[1:3])
        zero = opaque(self._frame.begin, 0.0)
        lines = let("lines", (rows - geometry.strip[0]) * stride_h + geometry.lines)
        used = let("used", (pixels - geometry.strip[1]) * stride_w + geometry.line_pixels)
        left = let("left", x * stride_w - pads[1])
        top = let("top", y * stride_h - pads[0])
        with loop("line", lines) as number:
            row = let("row", top + number * geometry.line_spacing)
            outside = tirx.any(row < 0, row >= height)
            before = let("before", tirx.Select(outside, used, tirx.min(tirx.max(-left, index(0)), used)))
            inside = let("inside", tirx.max(tirx.min(width - left, used), before))
            target = let("target", number * self.line + self.start)
            pixel = let("pixel", (image * height + row) * width + left)
            self._clear(target, index(0), before, zero)
            self._copy(target, pixel, before, inside, block)
            self._clear(target, inside, used, zero)

    def _copy(self, target: Expr, pixel: Expr, first: Expr, last: Expr, block: Expr | None) -> None:
        """Pixels [first, last) of a line."""
        buffer, channels = self._frame.buffer(self._x), self._geometry.channels[0]
        if block is None:
            source = let("source", pixel * channels)
            self._elements(first, last, lambda place, lanes: load(buffer, source + place, lanes), target)
            return
        start = let("start", block * self.channels)
        used = let("used_channels", tirx.min(index(channels) - start, index(self.channels)))
        with loop("pixel", last - first, first) as number:
            source = let("source", (pixel + number) * channels + start)
            place = let("place", target + number * self.channels)
            for piece, lanes in column_pieces(Dim.of(channels), self._lanes, self.channels, used):
                with piece as offset:
                    store_vector(self.buffer, place + offset, load(buffer, source + offset, lanes))

    def _clear(self, target: Expr, first: Expr, last: Expr, zero: Expr) -> None:
        self._elements(first, last, lambda place, lanes: spread(zero, lanes), target)

    def _elements(self, first: Expr, last: Expr, value: Callable[[Expr, int], Expr], target: Expr) -> None:
        """Whole pixels [first, last), as one run of elements."""
        channels, lanes = self.channels, self._lanes
        begin = let("begin", first * channels)
        whole = let("whole", tirx.truncdiv((last - first) * channels, index(lanes)))
        with loop("vector", whole) as number:
            place = let("place", begin + number * lanes)
            store_vector(self.buffer, target + place, value(place, lanes))
        if channels % lanes:
            with loop("element", last * channels - begin - whole * lanes) as number:
                place = let("place", begin + whole * lanes + number)
                store(self.buffer, target + place, value(place, 1))
