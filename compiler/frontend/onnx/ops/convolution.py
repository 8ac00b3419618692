"""Convolutions and pooling. One-dimensional ones are done as images of height 1; three-dimensional ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from nomul.frontend.common import BAD_NODE
from nomul.frontend.onnx.entry import Entry
from nomul.frontend.onnx.node import SourceNode
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim, ceil_div
from nomul.ir.graph import Value
from nomul.ir.types import DType


@dataclass
class _Window:
    """Per axis of the image [H, W]: kernel, strides, dilations; pads as ONNX gives them (all low sides first)."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    def reach(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1

    def attrs(self) -> dict[str, list[int]]:
        return {"strides": self.strides, "dilations": self.dilations, "pads": self.pads}


def image_value(n: SourceNode, value: Value) -> Value:
    """[N, C, W] as [N, C, 1, W]; [N, C, H, W] as it is."""
    if value.type.rank not in (3, 4):
        n.unsupported(f"only 1 or 2 spatial axes are supported, not {value.type.rank - 2}")
    return value if value.type.rank == 4 else n.reshape(value, (*value.shape[:2], 1, value.shape[2]))


def like_input(n: SourceNode, value: Value) -> Value:
    """Back to the rank of the node's first operand."""
    if n.rank() == 4:
        return value
    batch, channels, _, wide = value.shape
    return n.reshape(value, (batch, channels, wide))


def kernels(n: SourceNode, index: int = 1) -> Value:
    """The weights as [O, I, KH, KW]; constants are reshaped here and keep their name."""
    entry = n.entry(index)
    if entry.type.rank == 4 or not entry.is_constant:
        return image_value(n, n.tensor(index))
    shape = tuple(int(size) for size in entry.type.shape)
    if len(shape) != 3:
        n.unsupported(f"only 1 or 2 spatial axes are supported, not {len(shape) - 2}")
    wide = (*shape[:2], 1, shape[2])
    type = entry.type.with_shape(tuple(Dim.of(size) for size in wide))
    return n.scope.value(Entry(entry.name, type, load=lambda: entry.array().reshape(wide)))


def _window(n: SourceNode, kernel: Sequence[int]) -> _Window:
    """The node's attributes, with a first axis of 1 added to one-dimensional ones."""
    axes = len(kernel)
    strides = n.attr("strides") or [1] * axes
    dilations = n.attr("dilations") or [1] * axes
    pads = n.attr("pads") or [0] * (2 * axes)
    lengths = (len(strides), len(dilations), len(pads))
    if lengths != (axes, axes, 2 * axes) or min([*kernel, *strides, *dilations]) < 1 or min(pads) < 0:
        n.fail(BAD_NODE, f"kernel {list(kernel)}, strides {strides}, dilations {dilations}, pads {pads} do not fit")
    if axes == 1:
        return _Window([1, *kernel], [1, *strides], [1, *dilations], [0, pads[0], 0, pads[1]])
    return _Window(list(kernel), strides, dilations, pads)


def _auto_pad(n: SourceNode, x: Value, window: _Window, fill: float) -> Value:
    """Sets the window's pads for SAME_UPPER and SAME_LOWER; pads of symbolic size become a `view.pad` of x."""
    mode = n.attr("auto_pad", "NOTSET")
    if mode == "VALID":
        window.pads = [0, 0, 0, 0]
    if mode in ("NOTSET", "VALID"):
        return x
    totals = [_same_total(n, x.shape[2 + axis], window, axis) for axis in (0, 1)]
    lows = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    highs = [total - low for total, low in zip(totals, lows, strict=True)]
    if all(total.is_constant for total in totals):
        window.pads = [int(size) for size in lows + highs]
        return x
    window.pads = [0, 0, 0, 0]
    none = [Dim.of(0)] * 2
    return n.b.view.pad(x, before=none + lows, after=none + highs, value=fill)


def _same_total(n: SourceNode, size: Dim, window: _Window, axis: int) -> Dim:
    """Padding along an axis that gives ceil(size / stride) windows."""
    stride = window.strides[axis]
    total = (ceil_div(size, stride) - 1) * stride + window.reach(axis) - size
    if window.reach(axis) >= stride:  # never negative then
        return total
    if total.value is None:
        n.unsupported("auto_pad of a symbolic size with strides wider than the kernel is not supported")
    return Dim.of(max(int(total), 0))


def _check_reach(n: SourceNode, x: Value, window: _Window) -> None:
    """The window must fit into the padded image."""
    for axis in (0, 1):
        padded = x.shape[2 + axis] + window.pads[axis] + window.pads[2 + axis]
        if not n.at_most(Dim.of(window.reach(axis)), padded):
            n.fail(BAD_NODE, f"a window of {window.reach(axis)} does not fit into {padded}")


@onnx_op("Conv")
def conv(n: SourceNode) -> Value:
    return convolve(n, n.tensor(), kernels(n), n.optional(2))


def convolve(n: SourceNode, x: Value, weights: Value, bias: Value | None) -> Value:
    """Conv with the node's attributes on given operands."""
    spatial = weights.shape[2:] if n.rank() == 4 else weights.shape[3:]
    if any(size.value is None for size in spatial):
        n.unsupported("the size of the kernel must be constant")
    window = _window(n, [int(size) for size in spatial])
    x = image_value(n, x)
    x = _auto_pad(n, x, window, 0.0)
    _check_reach(n, x, window)
    y = n.b.nn.conv2d(x, weights, bias, groups=n.attr("group", 1), **window.attrs())
    return like_input(n, y)


@onnx_op("ConvTranspose")
def conv_transpose(n: SourceNode) -> Value:
    x, weights = image_value(n, n.tensor()), kernels(n)
    spatial = weights.shape[2:] if n.rank() == 4 else weights.shape[3:]
    window = _window(n, [int(size) for size in spatial])
    extra = list(n.attr("output_padding") or [0] * len(spatial))
    extra = extra if len(extra) == 2 else [0, *extra]
    _transposed_pads(n, x, window, extra)
    attrs = window.attrs() | {"output_pads": extra, "groups": n.attr("group", 1)}
    return like_input(n, n.b.nn.conv_transpose2d(x, weights, n.optional(2), **attrs))


def _transposed_pads(n: SourceNode, x: Value, window: _Window, extra: list[int]) -> None:
    """Pads (or, where they would be negative, output padding) from `output_shape` or `auto_pad`."""
    mode, wanted = n.attr("auto_pad", "NOTSET"), n.attr("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID"):
        return
    wanted = [None] * (2 - len(wanted)) + list(wanted[-2:]) if wanted else [None, None]
    for axis in (0, 1):
        size, stride = x.shape[2 + axis], window.strides[axis]
        full = (size - 1) * stride + window.reach(axis) + extra[axis]
        total = full - (size * stride if wanted[axis] is None else wanted[axis])
        if n.rank() == 3 and axis == 0:
            continue
        if total.value is None:
            n.unsupported("an output shape needs an input of constant size")
        pads = max(int(total), 0)
        extra[axis] += max(-int(total), 0)
        low = pads - pads // 2 if mode == "SAME_LOWER" or (wanted[axis] and mode != "SAME_UPPER") else pads // 2
        window.pads[axis], window.pads[2 + axis] = low, pads - low


# -- pooling ---------------------------------------------------------------------------------------------------
def _pool(n: SourceNode, op: Callable[..., Value], x: Value, fill: float, **attrs: object) -> Value:
    window = _window(n, n.need_attr("kernel_shape"))
    x = _auto_pad(n, image_value(n, x), window, fill)
    _check_reach(n, x, window)
    y = op(x, kernel=window.kernel, ceil=_is_ceil(n, x, window), **window.attrs(), **attrs)
    return like_input(n, y)


def _is_ceil(n: SourceNode, x: Value, window: _Window) -> bool:
    """ceil_mode adds a window that hangs over, but not one that would begin in the padding behind the image."""
    if not n.attr("ceil_mode", 0):
        return False
    drops = []
    for axis in (0, 1):
        size, stride = x.shape[2 + axis] + window.pads[axis], window.strides[axis]
        free = size + window.pads[2 + axis] - window.reach(axis)
        if stride > window.reach(axis) - window.pads[2 + axis] and size.value is None:
            n.unsupported("ceil_mode with such strides over a symbolic size is not supported")
        if free.value is not None and int(free) % stride:
            drops.append((int(free) // stride + 1) * stride >= int(size))
    if any(drops) and not all(drops):
        n.unsupported("ceil_mode adds a window along one axis, but none along the other")
    return not any(drops)


@onnx_op("MaxPool")
def max_pool(n: SourceNode) -> Value:
    if len([name for name in n.outputs if name]) > 1:
        n.unsupported("the indices of a max pool are not supported")
    dtype = n.dtype()
    x = n.cast(n.tensor(), dtype if dtype.is_float else DType.F32)
    return n.cast(_pool(n, n.b.nn.max_pool2d, x, -inf), dtype)


@onnx_op("AveragePool")
def average_pool(n: SourceNode) -> Value:
    counted = bool(n.attr("count_include_pad", 0))
    symbolic = n.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER") and not counted
    if symbolic and any(size.value is None for size in n.shape()[2:]):
        n.unsupported("auto_pad of an average over a symbolic size is not supported")
    return _pool(n, n.b.nn.avg_pool2d, n.tensor(), 0.0, count_pads=counted)


@onnx_op("LpPool")
def lp_pool(n: SourceNode) -> Value:
    """(sum of |x|^p over the window)^(1/p), by the mean of a window of known size."""
    p = n.attr("p", 2)
    powers = n.b.ew.pow(n.b.ew.abs(n.tensor()), float(p))
    if n.attr("ceil_mode", 0):
        n.unsupported("ceil_mode is not supported")
    means = _pool(n, n.b.nn.avg_pool2d, powers, 0.0, count_pads=True)
    count = 1
    for size in n.need_attr("kernel_shape"):
        count *= size
    return n.b.ew.pow(n.b.ew.mul(means, float(count)), 1.0 / p)


@onnx_op("GlobalAveragePool", "GlobalMaxPool")
def global_pool(n: SourceNode) -> Value:
    op = n.b.reduce.mean if n.op_type == "GlobalAveragePool" else n.b.reduce.max
    return op(n.tensor(), axes=tuple(range(2, n.rank())), keepdims=True)
