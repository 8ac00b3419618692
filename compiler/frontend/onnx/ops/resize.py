"""Resampling of images: Resize of all operator sets, and Upsample."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from nomul.frontend.common import BAD_NODE
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.ops.convolution import image_value, like_input
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value

_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


@onnx_op("Upsample")
def upsample(n: SourceNode) -> Value:
    scales = n.need_constant(1, "the scales").tolist() if n.has(1) else n.need_attr("scales")
    return _resample(n, scales, None, mode=n.attr("mode", "nearest"), coordinates="asymmetric", rounding="floor")


@onnx_op("Resize")
def resize(n: SourceNode) -> Value:
    if n.opset < 11:
        scales = n.need_constant(1, "the scales").tolist()
        return _resample(n, scales, None, mode=n.attr("mode", "nearest"), coordinates="asymmetric", rounding="floor")
    for name in ("exclude_outside", "antialias"):
        if n.attr(name, 0):
            n.unsupported(f"attribute {name} is not supported")
    coordinates = n.attr("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        n.unsupported(f"coordinates '{coordinates}' are not supported")
    scales, sizes = _targets(n)
    return _resample(
        n,
        scales,
        sizes,
        mode=n.attr("mode", "nearest"),
        coordinates=coordinates,
        rounding=n.attr("nearest_mode", "round_prefer_floor"),
        cubic_a=n.attr("cubic_coeff_a", -0.75),
    )


def _targets(n: SourceNode) -> tuple[list[float] | None, list[Dim] | None]:
    """(scales, None) or (None, sizes), one for each axis of the operand."""
    axes = n.axes(n.attr("axes")) if n.attr("axes") else tuple(range(n.rank()))
    scales = n.constant(2)
    if scales is not None and scales.size:
        found = dict(zip(axes, scales.tolist(), strict=True))
        return [found.get(axis, 1.0) for axis in range(n.rank())], None
    if n.has(2) and scales is None and not n.has(3):
        n.unsupported("the scales must be constant")
    given = dict(zip(axes, n.need_sizes(3, "the size of a resize"), strict=True))
    sizes = [given.get(axis, size) for axis, size in enumerate(n.shape())]
    policy = n.attr("keep_aspect_ratio_policy", "stretch")
    return None, sizes if policy == "stretch" else _keep_ratio(n, sizes, axes, policy)


def _keep_ratio(n: SourceNode, sizes: list[Dim], axes: tuple[int, ...], policy: str) -> list[Dim]:
    """One scale for all axes: the smallest (not_larger) or largest (not_smaller) of them."""
    if any(n.shape()[axis].value is None or sizes[axis].value is None for axis in axes):
        n.unsupported(f"keep_aspect_ratio_policy '{policy}' needs constant sizes")
    ratios = [Fraction(int(sizes[axis]), int(n.shape()[axis])) for axis in axes]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    kept = {axis: Dim.of(int(scale * int(n.shape()[axis]) + Fraction(1, 2))) for axis in axes}
    return [kept.get(axis, size) for axis, size in enumerate(sizes)]


def _resample(
    n: SourceNode,
    scales: list[float] | None,
    sizes: list[Dim] | None,
    **attrs: object,
) -> Value:
    """Two trailing axes (one of [N, C, W]) change their size; others must not."""
    shape = n.shape()
    if scales is not None:
        sizes = [_scaled(n, size, scale) for size, scale in zip(shape, scales, strict=True)]
    assert sizes is not None
    if attrs["mode"] not in ("nearest", "linear", "cubic"):
        n.unsupported(f"mode '{attrs['mode']}' is not supported")
    if n.rank() == 2:
        return _plane(n, sizes, scales, attrs)
    if any(size != target for size, target in zip(shape[:2], sizes[:2], strict=True)) or n.rank() not in (3, 4):
        n.unsupported(f"only the last two axes of an image can be resized, not {n.type()} to {sizes}")
    return like_input(n, _on_image(n, image_value(n, n.tensor()), sizes[2:], scales[2:] if scales else None, attrs))


def _plane(n: SourceNode, sizes: list[Dim], scales: list[float] | None, attrs: dict[str, object]) -> Value:
    """[H, W] as an image of one channel."""
    x = n.reshape(n.tensor(), (1, 1, *n.shape()))
    return n.reshape(_on_image(n, x, sizes, scales, attrs), sizes)


def _on_image(n: SourceNode, x: Value, sizes: list[Dim], scales: list[float] | None, attrs: dict[str, object]) -> Value:
    target = [*[Dim.of(1)] * (2 - len(sizes)), *sizes]
    if tuple(target) == x.shape[2:] and (scales is None or all(scale == 1.0 for scale in scales)):
        return x
    exact = [] if scales is None else [*[1.0] * (2 - len(scales)), *scales]
    return n.b.nn.resize2d(x, size=tuple(target), scales=exact, **attrs)


def _scaled(n: SourceNode, size: Dim, scale: float) -> Dim:
    """floor(size * scale), in f32 for constants as in the standard; a symbolic size needs a scale that is a ratio."""
    if not scale > 0:
        n.fail(BAD_NODE, f"the scale {scale} is not positive")
    if size.value is not None:
        return Dim.of(int(np.floor(np.float32(size.value) * np.float32(scale))))
    ratio = Fraction(scale).limit_denominator(64)
    if abs(float(ratio) - scale) > 1e-6 * scale:
        n.unsupported(f"the symbolic size {size} cannot be scaled by {scale}", "give the axis a constant size")
    return size * ratio.numerator // ratio.denominator
