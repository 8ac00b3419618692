"""The input of a strip of output pixels, copied into scratch with its padding, [rows, columns, channels]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop, store
from nomul.backends.tir.gemm import ROUNDED_HEIGHT, Reduction
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.graph import Value

if TYPE_CHECKING:
    from nomul.backends.kernels.conv2d import Geometry

Expr = Any


class Strip:
    """start: where it begins in `buffer` (elements).  row_step, pixel_step: from an output row or pixel to the next.

    reduction: the elements that one output pixel sums over, in the order of the packed weights."""

    def __init__(self, frame: KernelFrame, x: Value, geometry: Geometry, lanes: int, start: int) -> None:
        self._frame, self._x, self._geometry, self._lanes = frame, x, geometry, lanes
        self.start = start
        self.buffer = buffer_at("strip", "float32", frame.scratch)
        attrs, (kernel_h, kernel_w) = geometry.attrs, geometry.kernel
        (stride_h, stride_w), (dilation_h, dilation_w) = attrs["strides"], attrs["dilations"]
        channels = geometry.channels[0]
        # One output row needs only the input rows of its taps; several output rows share what lies between.
        self._spacing = dilation_h if geometry.strip_rows == 1 else 1
        tap_rows = dilation_h // self._spacing
        self._rows = (geometry.strip_rows - 1) * stride_h + (kernel_h - 1) * tap_rows + 1
        self._columns = (geometry.strip_width - 1) * stride_w + (kernel_w - 1) * dilation_w + 1
        line = self._columns * channels
        self.row_step, self.pixel_step = stride_h * line, stride_w * channels
        slack = (ROUNDED_HEIGHT - 1) * self.pixel_step  # read, and not used, behind the last pixel
        self.bytes = (self._rows * line + slack) * 4
        self.reduction = self._reduction(tap_rows * line)

    def _reduction(self, tap_row: int) -> Reduction:
        geometry = self._geometry
        (kernel_h, kernel_w), channels = geometry.kernel, geometry.channels[0]
        dilation = geometry.attrs["dilations"][1]
        rows = ((kernel_h, tap_row),) if kernel_h > 1 else ()
        if geometry.groups == 1 and (dilation == 1 or kernel_w == 1):
            return Reduction(kernel_w * channels, rows)
        return Reduction(channels // geometry.groups, (*rows, (kernel_w, dilation * channels)))

    def fill(self, image: Expr, y: Expr, x: Expr, rows: Expr, pixels: Expr) -> None:
        """Copy what the output pixels [y, y + rows) x [x, x + pixels) of an image read."""
        attrs, geometry = self._geometry.attrs, self._geometry
        (stride_h, stride_w), pads = attrs["strides"], attrs["pads"]
        height, width = (self._frame.size(size) for size in self._x.shape[1:3])
        zero = self._zero()
        used_rows = let("used_rows", (rows - 1) * stride_h + (self._rows - (geometry.strip_rows - 1) * stride_h))
        used = let("used", (pixels - 1) * stride_w + (self._columns - (geometry.strip_width - 1) * stride_w))
        left = let("left", x * stride_w - pads[1])
        top = let("top", y * stride_h - pads[0])
        line = self._columns * geometry.channels[0]
        with loop("line", used_rows) as number:
            row = let("row", top + number * self._spacing)
            outside = tirx.any(row < 0, row >= height)
            before = let("before", tirx.Select(outside, used, tirx.min(tirx.max(-left, index(0)), used)))
            inside = let("inside", tirx.max(tirx.min(width - left, used), before))
            target = let("target", number * line + self.start)
            source = let("source", ((image * height + row) * width + left) * geometry.channels[0])
            self._clear(target, index(0), before, zero)
            self._copy(target, source, before, inside)
            self._clear(target, inside, used, zero)

    def _zero(self) -> Expr:
        """Zero that LLVM does not know to be one, or it would call memset."""
        one, zero = (tirx.FloatImm("float32", value) for value in (1.0, 0.0))
        return let("zero", tirx.Select(self._frame.begin < 0, one, zero))

    def _copy(self, target: Expr, source: Expr, first: Expr, last: Expr) -> None:
        """Pixels [first, last) of a line."""
        buffer = self._frame.buffer(self._x)
        self._elements(first, last, lambda place, lanes: load(buffer, source + place, lanes), target)

    def _clear(self, target: Expr, first: Expr, last: Expr, zero: Expr) -> None:
        self._elements(first, last, lambda place, lanes: spread(zero, lanes), target)

    def _elements(self, first: Expr, last: Expr, value: Any, target: Expr) -> None:
        channels, lanes = self._geometry.channels[0], self._lanes
        begin = let("begin", first * channels)
        whole = let("whole", tirx.truncdiv((last - first) * channels, index(lanes)))
        with loop("vector", whole) as number:
            place = let("place", begin + number * lanes)
            store_vector(self.buffer, target + place, value(place, lanes))
        if channels % lanes:
            with loop("element", last * channels - begin - whole * lanes) as number:
                place = let("place", begin + whole * lanes + number)
                store(self.buffer, target + place, value(place, 1))
