"""nn.resize2d, nhwc, nearest and linear: vectors of channels; where a row or a column comes from is worked out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.group import Group
from nomul.backends.kernels import pixels as images
from nomul.backends.kernels.pixels import Pixel, Pixels
from nomul.backends.mathlib import bind, intrinsic
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let
from nomul.backends.tir.vectors import spread

Expr = Any
_EXACT = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if anchor.attrs["mode"] == "cubic":
        return "the mode is cubic"
    return images.refusal(group)


@kernel("nn.resize2d", accepts=refusal, rank=20)
def resampled(group: Group, target: Target) -> Built:
    """Tiles of neighbouring pixels of a row."""
    assert group.anchor is not None
    return images.build(group, target, 1, _Nearest if group.anchor.attrs["mode"] == "nearest" else _Linear)


class _Axes:
    """Where indices of the result come from on an axis (0: rows, 1: columns), in f64 as in the definition of the op."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels, self._anchor = pixels, pixels.anchor
        self._scales = [self._scale(axis) for axis in (0, 1)]

    def _scale(self, axis: int) -> Expr:
        scales = self._anchor.attrs["scales"]
        if scales:
            return tirx.FloatImm("float64", scales[axis])
        return bind(_float(self._result_size(axis)) / _float(self._pixels.size(axis)))

    def _result_size(self, axis: int) -> Expr:
        return self._pixels.frame.size(self._anchor.attrs["size"][axis])

    def place(self, axis: int, number: Expr) -> Expr:
        """Where on the operand's axis the result's index lies."""
        i, half = _float(number), tirx.FloatImm("float64", 0.5)
        coordinates = self._anchor.attrs["coordinates"]
        if coordinates == "asymmetric":
            return bind(i / self._scales[axis])
        if coordinates == "align_corners":
            last = tirx.max(self._result_size(axis) - 1, index(1))
            return bind(i * _float(self._pixels.size(axis) - 1) / _float(last))
        place = bind((i + half) / self._scales[axis] - half)
        if coordinates == "half_pixel":
            return place
        return bind(tirx.Select(self._result_size(axis) > 1, place, tirx.FloatImm("float64", 0.0)))

    def limited(self, axis: int, place: Expr) -> Expr:
        """A whole place as an index inside the operand."""
        number = tirx.Cast("int64", place)
        return let("index", tirx.max(index(0), tirx.min(number, self._pixels.size(axis) - 1)))


class _Nearest:
    """Emits a pixel that is a copy."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels, self._axes = pixels, _Axes(pixels)
        self._factors = [_factor(pixels, axis) for axis in (0, 1)]

    def __call__(self, pixel: Pixel) -> None:
        y, x = (self._nearest(axis, number) for axis, number in ((0, pixel.y), (1, pixel.x)))
        source = self._pixels.source(pixel.image, y, x)
        self._pixels.fill(pixel, lambda channel, lanes: self._pixels.read(source, channel, lanes))

    def _nearest(self, axis: int, number: Expr) -> Expr:
        factor = self._factors[axis]
        if factor is not None:
            return let("index", tirx.truncdiv(number, index(factor)))
        rounded = _ROUNDED[self._pixels.anchor.attrs["rounding"]](self._axes.place(axis, number))
        return self._axes.limited(axis, rounded)


def _factor(pixels: Pixels, axis: int) -> int | None:
    """The whole number by which the result is larger, where the index of the operand is just the quotient by it."""
    attrs, size = pixels.anchor.attrs, pixels.x.shape[1 + axis]
    if (attrs["coordinates"], attrs["rounding"]) not in _EXACT or not size.divides(attrs["size"][axis]):
        return None
    factor = attrs["size"][axis].divide_exactly(size).value
    return factor if not attrs["scales"] or attrs["scales"][axis] == factor else None


class _Linear:
    """Emits a pixel between four."""

    def __init__(self, pixels: Pixels) -> None:
        self._pixels, self._axes = pixels, _Axes(pixels)

    def __call__(self, pixel: Pixel) -> None:
        top, bottom, down = self._between(0, pixel.y)
        left, right, across = self._between(1, pixel.x)
        corners = [self._pixels.source(pixel.image, y, x) for y in (top, bottom) for x in (left, right)]

        def element(channel: Expr, lanes: int) -> Expr:
            a, b, c, d = (self._pixels.read(corner, channel, lanes) for corner in corners)
            return _mixed(_mixed(a, b, across), _mixed(c, d, across), down)

        self._pixels.fill(pixel, element)

    def _between(self, axis: int, number: Expr) -> tuple[Expr, Expr, tuple[Expr, Expr]]:
        """The two indices around a place, and the shares of both."""
        place = self._axes.place(axis, number)
        base = bind(intrinsic("llvm.floor", place))
        part = bind(place - base)
        one = tirx.FloatImm("float64", 1.0)
        shares = tuple(bind(tirx.Cast("float32", share)) for share in (one - part, part))
        return self._axes.limited(axis, base), self._axes.limited(axis, base + one), (shares[0], shares[1])


def _mixed(a: Expr, b: Expr, shares: tuple[Expr, Expr]) -> Expr:
    lanes = int(a.ty.dtype.lanes)
    return bind(a * spread(shares[0], lanes) + b * spread(shares[1], lanes))


def _float(number: Expr) -> Expr:
    return tirx.Cast("float64", number)


def _half() -> Expr:
    return tirx.FloatImm("float64", 0.5)


_ROUNDED: dict[str, Callable[[Expr], Expr]] = {
    "round_prefer_floor": lambda place: intrinsic("llvm.ceil", place - _half()),
    "round_prefer_ceil": lambda place: intrinsic("llvm.floor", place + _half()),
    "floor": lambda place: intrinsic("llvm.floor", place),
    "ceil": lambda place: intrinsic("llvm.ceil", place),
}
