"""The left operand of a product as rows of elements: those of a tensor, or the pixels' windows of an image.

Windows are gathered into scratch a few at a time, in the order of the weights [O, I, KH, KW], so that groups of columns
are what they are in the weights; or tap by tap, where the order of the columns does not matter."""

from __future__ import annotations

from typing import Any, Protocol

from tvm import tirx

from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.tir.body import either, index, let, loop, store
from nomul.backends.tir.convolution import Geometry
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.scratch import Scratch
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import row_major
from nomul.ir.views import resolve

Expr = Any


class RowSource(Protocol):
    """count: of all rows, which are those of the result.  depth: elements of a row."""

    count: Dim
    depth: int

    def fetch(self, first: Expr, rows: Expr) -> Rows:
        """Rows [first, first + rows), at most as many as the source was made for."""
        ...

    def fetched(self, first: Expr) -> Rows:
        """The rows that were fetched last, from row `first` on."""
        ...

    def lead(self, row: Expr) -> tuple[Expr, ...]:
        """The index of a row on all axes of the result but the last."""
        ...


class TensorRows:
    """Rows of a parameter, or of a view of one whose rows are evenly spaced runs (`kernels/linear.py`)."""

    def __init__(self, frame: KernelFrame, x: Value, stride: Dim) -> None:
        view = resolve(x)
        assert view is not None
        self._frame, self._sizes, self._stride = frame, x.shape[:-1], stride
        self._source, self._offset = view.source, view.offset
        self.count, self.depth = product(x.shape[:-1]), int(x.shape[-1])

    def fetch(self, first: Expr, rows: Expr) -> Rows:
        return self.fetched(first)

    def fetched(self, first: Expr) -> Rows:
        stride = self._frame.size(self._stride)
        return Rows(self._frame.buffer(self._source), let("a", first * stride + self._frame.size(self._offset)), stride)

    def lead(self, row: Expr) -> tuple[Expr, ...]:
        return tuple(split_index(let("row", row), [self._frame.size(size) for size in self._sizes]))


class Windows:
    """The windows of a convolution in nhwc without groups. most: rows that are fetched at once.

    by_tap: all channels of a tap together, [KH, KW, I]."""

    def __init__(
        self, frame: KernelFrame, node: Node, dtype: str, scratch: Scratch, most: int, by_tap: bool = False
    ) -> None:
        self._frame, self._geometry, self._dtype, self._by_tap = frame, Geometry(node), dtype, by_tap
        taps = self._geometry.kernel[0] * self._geometry.kernel[1]
        self.count = product(node.result.shape[:-1])
        self.depth = taps * self._geometry.channels[0]
        self._region = scratch.region(dtype, most * self.depth)
        self._sizes = node.result.shape[:-1]

    def lead(self, row: Expr) -> tuple[Expr, ...]:
        return tuple(split_index(let("row", row), [self._frame.size(size) for size in self._sizes]))

    def fetch(self, first: Expr, rows: Expr) -> Rows:
        height, width = self._geometry.kernel
        with loop("row", rows) as row:
            place = self.lead(first + row)
            target = let("target", row * self.depth + self._region.start)
            with loop("j", height) as j, loop("i", width) as i:
                tap = (j * width + i) * (self._geometry.channels[0] if self._by_tap else 1)
                self._tap(place, (j, i), let("tap", target + tap))
        return self.fetched(first)

    def fetched(self, first: Expr) -> Rows:
        return Rows(self._region.buffer, index(self._region.start), self.depth)

    def _tap(self, place: tuple[Expr, ...], tap: tuple[Expr, Expr], target: Expr) -> None:
        """All channels of one tap, or zeros outside of the image."""
        geometry, x = self._geometry, self._geometry.node.args[0]
        assert x is not None
        attrs, step = geometry.attrs, 1 if self._by_tap else geometry.kernel[0] * geometry.kernel[1]
        at = [
            let("at", place[a + 1] * attrs["strides"][a] + tap[a] * attrs["dilations"][a] - attrs["pads"][a])
            for a in (0, 1)
        ]
        sizes = [self._frame.size(size) for size in x.shape[1:3]]
        inside = tirx.all(at[0] >= 0, at[0] < sizes[0], at[1] >= 0, at[1] < sizes[1])
        strides = [self._frame.size(stride) for stride in row_major(x.shape)]
        with either(inside) as (then, otherwise):
            with then:
                source = let("source", place[0] * strides[0] + at[0] * strides[1] + at[1] * strides[2])
                with loop("channel", geometry.channels[0]) as channel:
                    store(self._region.buffer, target + channel * step, self._frame.buffer(x)[source + channel])
            with otherwise, loop("channel", geometry.channels[0]) as channel:
                store(self._region.buffer, target + channel * step, tirx.const(0, self._dtype))
