"""nn.max_pool2d and nn.avg_pool2d, nhwc: vectors of channels. Those inside the image are unrolled; at the border, loops
run over what is inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.group import Group
from nomul.backends.kernels.folds import larger
from nomul.backends.kernels.pixels import Pixel, Pixels, build, refusal
from nomul.backends.mathlib import bind, constant
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import either, index, let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, spread
from nomul.ir.graph import Node

Expr = Any
_MOST_TAPS = 16  # of a window that is unrolled


@kernel("nn.max_pool2d", accepts=refusal, rank=20)
def largest(group: Group, target: Target) -> Built:
    """Tiles of neighbouring pixels of a row; padding never wins."""
    return build(group, target, _taps(group), _Largest)


@kernel("nn.avg_pool2d", accepts=refusal, rank=20)
def average(group: Group, target: Target) -> Built:
    """Tiles of neighbouring pixels of a row; a sum times one over the number of elements that count."""
    return build(group, target, _taps(group), _Average)


def _taps(group: Group) -> int:
    assert group.anchor is not None
    height, width = group.anchor.attrs["kernel"]
    return int(height * width)


class _Window:
    """Where the window of a pixel lies. starts: row and column of its first tap, maybe outside of the image."""

    def __init__(self, pixels: Pixels, pixel: Pixel) -> None:
        self._pixels, attrs = pixels, pixels.anchor.attrs
        self.kernel, self.dilations, self.pads = attrs["kernel"], attrs["dilations"], attrs["pads"]
        self.starts = [
            let("start", place * stride - pad)
            for place, stride, pad in zip((pixel.y, pixel.x), attrs["strides"], self.pads, strict=False)
        ]

    def taps(self, axis: int, before: int = 0, after: int = 0) -> tuple[Expr, Expr]:
        """The taps [first, last) on an axis that lie inside the image, widened by `before` and `after`."""
        start, size, dilation = self.starts[axis], self._pixels.size(axis), self.dilations[axis]
        first = self._limited(tirx.truncdiv(-start - before + (dilation - 1), index(dilation)), axis)
        last = self._limited(tirx.truncdiv(size + after - start + (dilation - 1), index(dilation)), axis)
        return let("first", first), let("last", last)

    def _limited(self, tap: Expr, axis: int) -> Expr:
        return tirx.max(index(0), tirx.min(tap, index(self.kernel[axis])))

    def is_inside(self) -> Expr:
        """Whether all taps are inside the image."""
        reach = [(count - 1) * dilation for count, dilation in zip(self.kernel, self.dilations, strict=True)]
        (top, left), (height, width) = self.starts, (self._pixels.size(0), self._pixels.size(1))
        return tirx.all(top >= 0, left >= 0, top + reach[0] < height, left + reach[1] < width)

    def source(self, pixel: Pixel, row: Expr | int, column: Expr | int) -> Expr:
        """Where the pixel under a tap begins."""
        y, x = (start + tap * step for start, tap, step in zip(self.starts, (row, column), self.dilations, strict=True))
        return self._pixels.source(pixel.image, y, x)


class _Pool:
    """Emits a pixel of a pooled image."""

    start: float

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.attrs = pixels.anchor.attrs
        self._state = local("state", "float32", pixels.lanes)

    def combine(self, state: Expr, element: Expr) -> Expr:
        raise NotImplementedError

    def combined(self, taps: list[Expr]) -> Expr:
        """All taps of a window together."""
        raise NotImplementedError

    def finished(self, window: _Window) -> Callable[[Expr], Expr]:
        """What becomes of a combination of all taps."""
        raise NotImplementedError

    def __call__(self, pixel: Pixel) -> None:
        window = _Window(self.pixels, pixel)
        finish = self.finished(window)
        if _never_leaves(self.pixels.anchor) and self._is_small:
            self._fill_inside(window, pixel, finish)
        elif not self._is_small:
            self._fill_anywhere(window, pixel, finish)
        else:
            with either(window.is_inside()) as (then, otherwise):
                with then:
                    self._fill_inside(window, pixel, finish)
                with otherwise:
                    self._fill_anywhere(window, pixel, finish)

    @property
    def _is_small(self) -> bool:
        height, width = self.attrs["kernel"]
        return bool(height * width <= _MOST_TAPS)

    def _fill_inside(self, window: _Window, pixel: Pixel, finish: Callable[[Expr], Expr]) -> None:
        height, width = window.kernel
        sources = [window.source(pixel, row, column) for row in range(height) for column in range(width)]

        def element(channel: Expr, lanes: int) -> Expr:
            return finish(self.combined([self.pixels.read(source, channel, lanes) for source in sources]))

        self.pixels.fill(pixel, element)

    def _fill_anywhere(self, window: _Window, pixel: Pixel, finish: Callable[[Expr], Expr]) -> None:
        rows, columns = window.taps(0), window.taps(1)

        def element(channel: Expr, lanes: int) -> Expr:
            place = lanes_at(0, lanes)
            store(self._state, place, spread(tirx.FloatImm("float32", self.start), lanes))
            with (
                loop("row", rows[1] - rows[0], rows[0]) as row,
                loop("column", columns[1] - columns[0], columns[0]) as column,
            ):
                tap = self.pixels.read(window.source(pixel, row, column), channel, lanes)
                store(self._state, place, self.combine(bind(tirx.BufferLoad(self._state, [place])), tap))
            return finish(bind(tirx.BufferLoad(self._state, [place])))

        self.pixels.fill(pixel, element)


class _Largest(_Pool):
    start = float("-inf")

    def combine(self, state: Expr, element: Expr) -> Expr:
        return larger(state, element)

    def combined(self, taps: list[Expr]) -> Expr:
        """One instruction a tap, since NaN is looked for apart from the maximum."""
        state, is_nan = taps[0], tirx.isnan(taps[0])
        for tap in taps[1:]:
            state = bind(tirx.Select(tap > state, tap, state))
            is_nan = tirx.Or(is_nan, tirx.isnan(tap))
        return tirx.Select(is_nan, constant(state, float("nan")), state)

    def finished(self, window: _Window) -> Callable[[Expr], Expr]:
        return lambda state: state


class _Average(_Pool):
    start = 0.0

    def combine(self, state: Expr, element: Expr) -> Expr:
        return state + element

    def combined(self, taps: list[Expr]) -> Expr:
        state = taps[0]
        for tap in taps[1:]:
            state = bind(state + tap)
        return state

    def finished(self, window: _Window) -> Callable[[Expr], Expr]:
        top, left, bottom, right = self.attrs["pads"] if self.attrs["count_pads"] else (0, 0, 0, 0)
        rows, columns = window.taps(0, top, bottom), window.taps(1, left, right)
        count = tirx.Cast("float32", (rows[1] - rows[0]) * (columns[1] - columns[0]))
        share = bind(tirx.FloatImm("float32", 1.0) / count)
        return lambda state: state * spread(share, int(state.ty.dtype.lanes))


def _never_leaves(anchor: Node) -> bool:
    return not any(anchor.attrs["pads"]) and not anchor.attrs["ceil"]
