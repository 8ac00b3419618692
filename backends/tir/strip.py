"""The input of a strip of output pixels, copied into scratch with its padding: f32 [lines, pixels, channels]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop, opaque, store, when
from nomul.backends.tir.output import column_pieces
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Value

Expr = Any


class Strip:
    """start: where it begins in `buffer` (elements).  channels: of its pixels; fewer than the image's where a strip
    holds a block of them.  line: elements of a line.  spacing: rows of the image from one line to the next."""

    def __init__(
        self, frame: KernelFrame, x: Value, size: tuple[int, int], channels: int, start: int, spacing: int = 1
    ) -> None:
        """size: most lines, and pixels of a line."""
        self._frame, self._x, self._lines, self._spacing = frame, x, size[0], spacing
        self._lanes = frame.target.vector_bytes // 4
        self.start, self.channels = start, channels
        self.buffer = buffer_at("strip", "float32", frame.scratch)
        self.line = size[1] * channels

    def bytes(self, slack: int) -> int:
        """Size in scratch; so many pixels behind the last one may be read too (and mean nothing)."""
        return (self._lines * self.line + slack * self.channels) * 4

    def fill(
        self, image: Expr, corner: tuple[Expr, Expr], lines: Expr, pixels: Expr, block: Expr | None = None
    ) -> None:
        """Copy `lines` rows of `pixels` pixels from the corner (row, column) of an image on, zero outside of the image.

        block: copy one block of channels only."""
        height, width = (self._frame.size(size) for size in self._x.shape[1:3])
        top, left = corner
        zero = opaque(self._frame.begin, 0.0)
        with loop("line", lines) as number:
            row = let("row", top + number * self._spacing)
            outside = tirx.any(row < 0, row >= height)
            first = let("first", tirx.Select(outside, pixels, tirx.min(tirx.max(-left, index(0)), pixels)))
            last = let("last", tirx.max(tirx.min(width - left, pixels), first))
            target = let("target", number * self.line + self.start)
            with when(last - first < pixels):
                self._clear(target, pixels, zero)
            self._copy(target, let("pixel", (image * height + row) * width + left), first, last, block)

    def _copy(self, target: Expr, pixel: Expr, first: Expr, last: Expr, block: Expr | None) -> None:
        """Pixels [first, last) of a line."""
        buffer, channels = self._frame.buffer(self._x), int(self._x.shape[3])
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
                    store_vector(self.buffer, place + offset, self._float(load(buffer, source + offset, lanes), lanes))

    def _float(self, elements: Expr, lanes: int) -> Expr:
        kind = "float32" if lanes == 1 else f"float32x{lanes}"
        return tirx.Cast(kind, elements) if self._x.dtype.is_integer else elements

    def _clear(self, target: Expr, pixels: Expr, zero: Expr) -> None:
        self._elements(index(0), pixels, lambda place, lanes: spread(zero, lanes), target)

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
