"""Convolutions, pooling and resizing. One-dimensional forms become images of height 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nomul.frontend.torch.lazy import ONE, ZERO
from nomul.frontend.torch.lowering import Lowering
from nomul.frontend.torch.registry import aten
from nomul.ir.dim import Dim
from nomul.ir.graph import Value


def _pair(value: Any, default: tuple[int, int] = (1, 1)) -> tuple[int, int]:
    """A torch parameter of one or two numbers; of a one-dimensional op, the default stands for the height."""
    if isinstance(value, int):
        return (value, value)
    items = [int(item) for item in value]
    return (default[0], items[0]) if len(items) == 1 else (items[0], items[1])


def _line_pair(value: Any, height: int) -> tuple[int, int]:
    return (height, int(value if isinstance(value, int) else value[0]))


def _as_image(g: Lowering, x: Value) -> Value:
    """[N, C, H, W] from [N, C, W], [C, H, W] stays for the caller to name."""
    return g.reshape(x, (*x.shape[:2], ONE, x.shape[2])) if x.type.rank == 3 else x


@aten("convolution")
def convolution(
    g: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    spatial = weight.type.rank - 2
    if spatial > 2:
        raise g.unsupported(f"convolution over {spatial} axes is not supported")
    sizes = [[int(g.symbols.dim(n)) for n in value] for value in (stride, padding, dilation, output_padding)]
    (strides, pads, dilations, output_pads) = (value * (spatial if len(value) == 1 else 1) for value in sizes)
    shape, x = g.shape(), _as_image(g, x)
    if spatial == 1:
        weight = g.reshape(weight, (*weight.shape[:2], ONE, weight.shape[2]))
        strides, pads = [1, *strides], [0, *pads]
        dilations, output_pads = [1, *dilations], [0, *output_pads]
    attrs = {"strides": strides, "pads": pads * 2, "dilations": dilations, "groups": groups}
    if transposed:
        y = g.b.nn.conv_transpose2d(x, weight, bias, output_pads=output_pads, name=g.name, **attrs)
    else:
        y = g.b.nn.conv2d(x, weight, bias, name=g.name, **attrs)
    return g.reshape(y, shape)


@aten("conv1d.default", "conv2d.default")
def conv(
    g: Lowering,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    """With or without a batch axis."""
    sizes = [[value] if isinstance(value, int) else value for value in (stride, padding, dilation)]
    if x.type.rank < weight.type.rank:
        x = g.reshape(x, (ONE, *x.shape))
    return convolution(g, x, weight, bias, *sizes, transposed=False, output_padding=[0], groups=groups)


def _fit(g: Lowering, y: Value, shape: tuple[Dim, ...]) -> Value:
    """Drop the last window of a `ceil_mode` that would start in the padding, as torch does."""
    for axis in (2, 3):
        if y.shape[axis] == shape[axis] + 1:
            y = g.slice(y, axis, ZERO, shape[axis])
    return y


def _pooled(g: Lowering, op: str, x: Value, shape: tuple[Dim, ...], **attrs: Any) -> Value:
    """Pool an image with or without a batch axis, or (rank 3 of a one-dimensional op) a line."""
    lines = "1d" in g.node.target._schema.name
    if lines:
        image = g.reshape(x, (*x.shape[:-1], ONE, x.shape[-1]))
        wide = (*shape[:-1], ONE, shape[-1])
    else:
        image, wide = x, shape
    if image.type.rank == 3:
        image, wide = g.reshape(image, (ONE, *image.shape)), (ONE, *wide)
    y = g.b.op(op, image, name=g.name, **attrs)
    return g.reshape(_fit(g, y, wide), shape)


def _window(g: Lowering, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> dict[str, Any]:
    lines = "1d" in g.node.target._schema.name
    pair = (lambda value, height: _line_pair(value, height)) if lines else (lambda value, height: _pair(value))
    no_stride = stride is None or (not isinstance(stride, int) and len(stride) == 0)
    pads = pair(padding, 0)
    return {
        "kernel": pair(kernel, 1),
        "strides": pair(kernel if no_stride else stride, 1),
        "pads": pads * 2,
        "dilations": pair(dilation, 1),
    }


@aten("max_pool2d", "max_pool1d")
def max_pool(
    g: Lowering, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Value:
    attrs = _window(g, kernel, stride, padding, dilation)
    return _pooled(g, "nn.max_pool2d", x, g.shape(), ceil=ceil_mode, **attrs)


@aten("max_pool2d_with_indices")
def max_pool_with_indices(
    g: Lowering, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> tuple[Value]:
    """The indices are not computed; a use of them is out of range and reported."""
    attrs = _window(g, kernel, stride, padding, dilation)
    return (_pooled(g, "nn.max_pool2d", x, g.shape(0), ceil=ceil_mode, **attrs),)


@aten("avg_pool2d", "avg_pool1d")
def avg_pool(
    g: Lowering,
    x: Value,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    attrs = _window(g, kernel, stride, padding)
    if divisor_override is not None and ceil_mode:
        raise g.unsupported("average pooling with divisor_override and ceil_mode is not supported")
    counted = count_include_pad or divisor_override is not None
    y = _pooled(g, "nn.avg_pool2d", x, g.shape(), ceil=ceil_mode, count_pads=counted, **attrs)
    if divisor_override is None:
        return y
    return g.b.ew.mul(y, attrs["kernel"][0] * attrs["kernel"][1] / divisor_override)


@aten("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool1d")
def adaptive_avg_pool(g: Lowering, x: Value, output_size: Sequence[Any]) -> Value:
    """The mean over an axis, or a product with the matrix of each output's share of the inputs."""
    count = len(output_size)
    for axis in range(x.type.rank - count, x.type.rank):
        size, out = x.shape[axis], g.shape()[axis]
        if out == ONE:
            x = g.b.reduce.mean(x, axes=(axis,), keepdims=True)
        elif size != out:
            x = _shared(g, x, axis, size, out)
    return x


def _shared(g: Lowering, x: Value, axis: int, size: Dim, out: Dim) -> Value:
    if size.value is None or out.value is None:
        raise g.unsupported(f"adaptive pooling of a dynamic size {size} to {out} is not supported")
    matrix = np.zeros((int(out), int(size)), x.dtype.numpy)
    for row in range(int(out)):
        low, high = row * int(size) // int(out), -(-(row + 1) * int(size) // int(out))
        matrix[row, low:high] = 1 / (high - low)
    weight = g.weights.add(f"{g.name}.shares", matrix)
    perm = list(range(x.type.rank))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    return g.transpose(g.b.nn.linear(g.transpose(x, perm), weight), perm)


def _resize(g: Lowering, x: Value, scales: Sequence[float | None] | None, **attrs: Any) -> Value:
    """A scale that the model gives counts; otherwise it is the ratio of the sizes."""
    shape = g.shape()
    lines = x.type.rank == 3
    image, sizes = _as_image(g, x), (ONE, shape[2]) if lines else shape[2:]
    given = [] if scales is None else [1.0, *scales] if lines else list(scales)
    if given and all(scale is not None for scale in given):
        attrs["scales"] = [float(g.symbols.number(scale)) for scale in given]
    return g.reshape(g.b.nn.resize2d(image, size=sizes, name=g.name, **attrs), shape)


@aten("upsample_nearest2d.vec", "upsample_nearest1d.vec")
def upsample_nearest(g: Lowering, x: Value, size: Any, scales: Any) -> Value:
    return _resize(g, x, scales, mode="nearest", coordinates="asymmetric", rounding="floor")


@aten("upsample_nearest2d.default", "upsample_nearest1d.default")
def upsample_nearest_default(g: Lowering, x: Value, size: Any, *scales: Any) -> Value:
    return upsample_nearest(g, x, size, scales or None)


@aten("_upsample_nearest_exact2d.vec", "_upsample_nearest_exact1d.vec")
def upsample_nearest_exact(g: Lowering, x: Value, size: Any, scales: Any) -> Value:
    return _resize(g, x, scales, mode="nearest", coordinates="half_pixel", rounding="round_prefer_ceil")


@aten("_upsample_nearest_exact2d.default", "_upsample_nearest_exact1d.default")
def upsample_nearest_exact_default(g: Lowering, x: Value, size: Any, *scales: Any) -> Value:
    return upsample_nearest_exact(g, x, size, scales or None)


def _coordinates(align_corners: bool) -> str:
    return "align_corners" if align_corners else "half_pixel"


@aten("upsample_bilinear2d.vec", "upsample_linear1d.vec")
def upsample_linear(g: Lowering, x: Value, size: Any, align_corners: bool, scales: Any) -> Value:
    return _resize(g, x, scales, mode="linear", coordinates=_coordinates(align_corners))


@aten("upsample_bilinear2d.default", "upsample_linear1d.default")
def upsample_linear_default(g: Lowering, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
    return upsample_linear(g, x, size, align_corners, scales or None)


@aten("upsample_bicubic2d.vec")
def upsample_cubic(g: Lowering, x: Value, size: Any, align_corners: bool, scales: Any) -> Value:
    return _resize(g, x, scales, mode="cubic", coordinates=_coordinates(align_corners))


@aten("upsample_bicubic2d.default")
def upsample_cubic_default(g: Lowering, x: Value, size: Any, align_corners: bool, *scales: Any) -> Value:
    return upsample_cubic(g, x, size, align_corners, scales or None)


@aten("adaptive_max_pool2d")
def adaptive_max_pool(g: Lowering, x: Value, output_size: Sequence[Any]) -> tuple[Value]:
    """Where the output size divides the input size: windows of equal size. The indices are not computed."""
    windows = []
    for size, out in zip(x.shape[-2:], g.shape(0)[-2:], strict=True):
        if size.value is None or out.value is None or int(size) % int(out):
            raise g.unsupported(f"adaptive maximum pooling of {size} to {out} is not supported")
        windows.append(int(size) // int(out))
    return (_pooled(g, "nn.max_pool2d", x, g.shape(0), kernel=windows, strides=windows),)
