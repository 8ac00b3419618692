"""Kernels that make images [N, H, W, C] pixel by pixel: tiles of pixels, and the channels of a pixel by vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels.nest import TILE, grain, typical
from nomul.backends.kernels.pieces import if_bit, steps
from nomul.backends.mathlib import bind
from nomul.backends.registry import Built
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.vectors import lanes_at
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.types import DType

Expr = Any
Element = Callable[[Expr, int], Expr]  # (channel, lanes) -> the anchor's elements from that channel on


@dataclass(frozen=True)
class Pixel:
    """A pixel of the result: image, row, column."""

    image: Expr
    y: Expr
    x: Expr


def refusal(group: Group) -> str | None:
    """Why a group around an op that makes an image is not served, or None."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[0] is not None
    x = anchor.args[0]
    if anchor.attrs["layout"] != "nhwc":
        return "the layout is not nhwc"
    if len(group.func.returns) != 1 or group.func.returns[0].shape != anchor.result.shape:
        return "the result is not of the image's shape"
    if x.producer is not None or x.type.encoding is not None:
        return "the image is computed inside the group"
    if x.dtype not in (DType.F32, DType.F16, DType.BF16):
        return f"the elements are {x.dtype}"
    return None


def build(group: Group, target: Target, work: int, make: Callable[[Pixels], Callable[[Pixel], None]]) -> Built:
    """A kernel from what happens to one pixel; `make` is called outside of loops. work: steps that an element takes."""
    with KernelFrame(group, target) as frame:
        pixels = Pixels(frame, work)
        pixels.emit(make(pixels))
    columns = group.func.returns[0].shape[2]
    elements = min(pixels.chunk, typical(columns, group.ranges)) * typical(pixels.channels, group.ranges) * work
    return Built(frame.function, tiles=pixels.tiles, grain=grain(elements))


class Pixels:
    """Emits the loops of one kernel. chunk: pixels of a tile, which are neighbours in a row."""

    def __init__(self, frame: KernelFrame, work: int) -> None:
        self.frame, group = frame, frame.group
        assert group.anchor is not None and group.anchor.args[0] is not None
        self.anchor, self.x = group.anchor, group.anchor.args[0]
        self.images, self.rows, self.columns, self.channels = self.anchor.result.shape
        self.chunk = max(1, TILE // (typical(self.channels, group.ranges) * work))
        self.lanes = frame.target.vector_bytes // 4
        self.epilogue = Epilogue(group, self.anchor.result)

    @property
    def tiles(self) -> Dim:
        return self.images * self.rows * ceil_div(self.columns, self.chunk)

    def emit(self, body: Callable[[Pixel], None]) -> None:
        """The tile loop around what happens to one pixel."""
        sizes = [self.frame.size(size) for size in (self.images, self.rows, ceil_div(self.columns, self.chunk))]
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as number:
            image, y, part = split_index(number, sizes)
            first = let("first", part * self.chunk)
            count = tirx.min(index(self.chunk), self.frame.size(self.columns) - first)
            with loop("pixel", let("count", count), first) as x:
                body(Pixel(image, y, x))

    def fill(self, pixel: Pixel, element: Element) -> None:
        """Compute and store all channels of a pixel, with the nodes behind."""
        for piece, lanes in self._pieces():
            with piece as channel:
                at = (pixel.image, pixel.y, pixel.x, lanes_at(channel, lanes))
                value = self.epilogue.apply(bind(element(channel, lanes)), at, self.frame.read)
                self.frame.write(0, at, value)

    def source(self, image: Expr, y: Expr, x: Expr) -> Expr:
        """Where a pixel of the operand begins."""
        _, height, width, channels = (self.frame.size(size) for size in self.x.shape)
        return let("source", ((image * height + y) * width + x) * channels)

    def read(self, start: Expr, channel: Expr, lanes: int) -> Expr:
        """Channels of a pixel of the operand."""
        return self.frame.read_flat(self.x, lanes_at(start + channel, lanes))

    def size(self, axis: int) -> Expr:
        """Height (0) or width (1) of the operand."""
        return self.frame.size(self.x.shape[1 + axis])

    def _pieces(self) -> Iterator[tuple[Any, int]]:
        """Blocks of code that cover the channels: (context that gives the first one, lanes)."""
        size, lanes = self.channels.value, self.lanes
        amount = self.frame.size(self.channels)
        whole = let("whole", tirx.truncdiv(amount, index(lanes)))
        if size is None or size >= lanes:
            yield steps(whole, lanes, index(0)), lanes
        done = let("done", whole * lanes)
        left = let("left", amount - done)
        while lanes > 1:
            lanes //= 2
            if size is None or size & lanes:
                yield if_bit(left, lanes, done), lanes
