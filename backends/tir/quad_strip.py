"""The input of a strip of output pixels for sums over taps: four neighbouring taps of each channel side by side.

    pixels of a line    ... |x: 16 channels|x + 1|x + 2|x + 3| ...                          one byte each
    slot x + 3 d        ... |channel 0 of x, x + d, x + 2 d, x + 3 d|channel 1 of those| ... d: dilation

So a vector of 64 bytes meets four taps of a kernel row of 16 channels at once. Each slot is the one of d pixels before,
shifted by a byte, with the next pixel's bytes behind: a load that widens bytes to lanes, a shift and a store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.depthwise import BLOCK, QUAD, TapShape
from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import either, index, let, local, loop, store
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.output import column_pieces
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector
from nomul.ir.dim import Dim

Expr = Any
_FLIP = 0x80  # in the lowest byte of a lane


class QuadStrip:
    """line: elements of a line of slots.  start: where the quad of the first output pixel stands in `buffer`, int32.

    flip: whether 128 is added to bytes.  slack: output pixels behind the last one that are read too, for nothing."""

    def __init__(
        self, frame: KernelFrame, geometry: Geometry, shape: TapShape, scratch: Scratch, flip: bool, slack: int
    ) -> None:
        x = geometry.node.args[0]
        assert x is not None
        self._frame, self._x, self._geometry, self._flip = frame, x, geometry, flip
        self._stride, self._dilation = (int(geometry.attrs[name][1]) for name in ("strides", "dilations"))
        self._reach = (shape.row_quads * QUAD - 1) * self._dilation + 1  # pixels that the quads of a row span
        self.line = ((geometry.strip[1] - 1) * self._stride + self._reach) * BLOCK
        region = scratch.region("int32", geometry.lines * self.line + slack * self._stride * BLOCK)
        self.buffer, self._first = region.buffer, region.start
        self.start = region.start + (QUAD - 1) * self._dilation * BLOCK
        self._quads, self._next = (local(name, "uint32", BLOCK) for name in ("quads", "next_pixel"))

    def position(self, pixel: int, quad: int) -> int:
        """Elements from the quad of the first output pixel to another one of another pixel."""
        return (pixel * self._stride + quad * QUAD * self._dilation) * BLOCK

    def fill(self, image: Expr, corner: tuple[Expr, Expr], lines: Expr, pixels: Expr, block: Expr) -> None:
        """`lines` rows of `pixels` input pixels from the corner (row, column) of an image on, zero outside of it."""
        height, width = (self._frame.size(size) for size in self._x.shape[1:3])
        top, left = corner
        taps = (self._geometry.kernel[1] - 1) * self._dilation + 1
        slots = let("slots", pixels + (self._reach - taps))
        padding = _every(_FLIP if self._flip else 0)
        with loop("line", lines) as number:
            row = let("row", top + number * self._geometry.line_spacing)
            outside = tirx.any(row < 0, row >= height)
            first = let("first", tirx.Select(outside, slots, tirx.min(tirx.max(-left, index(0)), slots)))
            last = let("last", tirx.max(tirx.min(width - left, slots), first))
            target = let("target", number * self.line + self._first)
            source = let("source", (image * height + row) * width + left)
            for phase in range(self._dilation):
                self._slide(target, phase, (index(0), first), lambda slot: padding)
                self._slide(target, phase, (first, last), lambda slot: self._pixel(source + slot, block))
                self._slide(target, phase, (last, slots), lambda slot: padding)

    def _slide(self, target: Expr, phase: int, part: tuple[Expr, Expr], pixel: Callable[[Expr], Expr]) -> None:
        """Slots of a part of the line that are `phase` behind a multiple of the dilation."""
        step = self._dilation
        begin, end = (let("bound", tirx.truncdiv(bound + (step - 1 - phase), index(step))) for bound in part)
        with loop("slot", end - begin, begin) as number:
            slot = let("slot", number * step + phase)
            new = tirx.shift_left(let("new", pixel(slot)), _every(8 * (QUAD - 1)))
            quads = let("quads", tirx.bitwise_or(tirx.shift_right(load(self._quads, 0, BLOCK), _every(8)), new))
            store(self._quads, lanes_at(0, BLOCK), quads)
            store_vector(self.buffer, target + slot * BLOCK, tirx.reinterpret(f"int32x{BLOCK}", quads))

    def _pixel(self, pixel: Expr, block: Expr) -> Expr:
        """The bytes of a block of channels, each in the lowest byte of a lane."""
        channels = int(self._x.shape[3])
        start = let("start", block * BLOCK)
        place = let("place", pixel * channels + start)
        if channels % BLOCK == 0:
            return self._bytes(place, BLOCK)
        with either(start + BLOCK <= channels) as (then, otherwise):
            with then:
                store(self._next, lanes_at(0, BLOCK), self._bytes(place, BLOCK))
            with otherwise:
                for piece, lanes in column_pieces(Dim.of(channels % BLOCK), BLOCK, BLOCK, index(channels % BLOCK)):
                    with piece as offset:
                        store(self._next, lanes_at(offset, lanes), self._bytes(place + offset, lanes))
        return load(self._next, 0, BLOCK)

    def _bytes(self, place: Expr, lanes: int) -> Expr:
        byte, lane = (kind if lanes == 1 else f"{kind}x{lanes}" for kind in ("uint8", "uint32"))
        q = tirx.Cast(lane, tirx.reinterpret(byte, load(self._frame.buffer(self._x), place, lanes)))
        return tirx.bitwise_xor(q, _every(_FLIP, lanes)) if self._flip else q


def _every(value: int, lanes: int = BLOCK) -> Expr:
    return spread(tirx.const(value, "uint32"), lanes)
