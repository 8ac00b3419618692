"""Convolution, pooling, resizing of images. layout: "nchw" or "nhwc" for x and the result; weights: [O, I, KH, KW]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from nomul.ir import numerics
from nomul.ir.dim import Dim
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.op import Kind, op
from nomul.ir.quantise import LEVELS, dense_weights, product, quantise, verify_act
from nomul.ir.signature import TypeFault
from nomul.ir.types import Tensor

PADS = (0, 0, 0, 0)
_WINDOWS_AT_ONCE = 1 << 22  # elements: as a matrix, the windows of a whole image can be large


def spatial(x: Tensor, layout: str) -> tuple[Dim, Dim, Dim, Dim]:
    """(N, C, H, W) of an image tensor in either layout."""
    if x.rank != 4 or layout not in ("nchw", "nhwc"):
        raise TypeFault(f"an image must have rank 4 and layout nchw or nhwc, not {x} as '{layout}'", 0)
    n, *rest = x.shape
    return (n, *rest) if layout == "nchw" else (n, rest[2], rest[0], rest[1])  # type: ignore[return-value]


def image(x: Tensor, n: Dim, c: Dim, h: Dim, w: Dim, layout: str) -> Tensor:
    """x's type with other sizes, in its layout."""
    return x.with_shape((n, c, h, w) if layout == "nchw" else (n, h, w, c))


def window(size: Dim, kernel: int, stride: int, low: int, high: int, dilation: int, ceil: bool = False) -> Dim:
    """Number of windows along an axis (as ONNX counts them)."""
    free = size + (low + high - dilation * (kernel - 1) - 1)
    return (free + (stride - 1 if ceil else 0)) // stride + 1


def _two(attrs: dict[str, Any], *names: str) -> None:
    for name in names:
        length = 4 if name == "pads" else 2
        if len(attrs[name]) != length:
            raise TypeFault(f"attribute '{name}' must have {length} numbers, not {list(attrs[name])}")
        if min(attrs[name]) < (0 if name.endswith("pads") else 1):
            raise TypeFault(f"attribute '{name}' has too small a number: {list(attrs[name])}")


def infer_conv2d(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, w = types[0], types[1]
    assert x is not None and w is not None
    _two(attrs, "strides", "pads", "dilations")
    n, c, *sizes = spatial(x, attrs["layout"])
    if w.rank != 4 or attrs["groups"] < 1 or w.shape[1] * attrs["groups"] != c or int(w.shape[0]) % attrs["groups"]:
        raise TypeFault(f"weights {w} with {attrs['groups']} groups do not fit {x}", 1)
    pads = attrs["pads"]
    h, width = (
        window(sizes[i], int(w.shape[2 + i]), attrs["strides"][i], pads[i], pads[2 + i], attrs["dilations"][i])
        for i in (0, 1)
    )
    return image(x, n, w.shape[0], h, width, attrs["layout"])


def channels_first(x: np.ndarray, layout: str) -> np.ndarray:
    return x if layout == "nchw" else x.transpose(0, 3, 1, 2)


def in_layout(y: np.ndarray, layout: str) -> np.ndarray:
    return y if layout == "nchw" else np.ascontiguousarray(y.transpose(0, 2, 3, 1))


def _windows(x: np.ndarray, kernel: tuple[int, int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """[N, C, OH, OW, KH, KW] views of x [N, C, H, W]."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(2, 3))
    return views[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


@op("nn.conv2d", Kind.ANCHOR, infer=infer_conv2d, verify=verify_act)
def conv2d(
    x: "f[_any]",
    w: "f[O, I, KH, KW]",
    bias: "f[O] | None" = None,
    *,
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = PADS,
    dilations: tuple[int, ...] = (1, 1),
    groups: int = 1,
    layout: Literal["nchw", "nhwc"] = "nchw",
    act: Literal["f32", "i8", "i8-static"] = "f32",
    act_scale: float = 0.0,
    act_levels: int = LEVELS,
) -> "f[...]":
    """Cross-correlation with zero padding; pads = (top, left, bottom, right).
    act="i8": of quantise(x), with a scale for each image; "i8-static": with act_scale;
    act_levels: the largest integer that it has (`ir/quantise.py`)."""
    x, dtype = channels_first(x, layout), x.dtype
    if act == "f32":
        views = numerics.wide(_padded_windows(x, w.shape[2:], strides, pads, dilations, groups))
        kernels = numerics.wide(dense_weights(w).reshape(groups, w.shape[0] // groups, *w.shape[1:]))
        y = np.einsum("ngchwij,gocij->ngohw", views, kernels, optimize=True)
    else:
        q, scale = quantise(x.reshape(len(x), x[0].size), act, act_scale, act_levels)
        y = quantised_images(q.reshape(x.shape), scale, w, strides, pads, dilations, groups)
    return images_of_groups(y, bias, dtype, layout)


def images_of_groups(y: np.ndarray, bias: np.ndarray | None, dtype: np.dtype, layout: str) -> np.ndarray:
    """Images in the layout, bias added, of the groups' results y [N, groups, O / groups, OH, OW]."""
    y = y.reshape(len(y), y.shape[1] * y.shape[2], *y.shape[3:])
    y = y if bias is None else y + bias[:, None, None]
    return in_layout(y.astype(dtype), layout)


def _padded_windows(
    x: np.ndarray,
    kernel: tuple[int, ...],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> np.ndarray:
    """[N, groups, C / groups, OH, OW, KH, KW] views of x [N, C, H, W] with zeros around it."""
    padded = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    views = _windows(padded, (kernel[0], kernel[1]), strides, dilations)
    return views.reshape(len(x), groups, x.shape[1] // groups, *views.shape[2:])


def quantised_images(
    q: np.ndarray,
    scale: np.ndarray,
    w: EncodedArray | np.ndarray,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> np.ndarray:
    """f32 [N, groups, O / groups, OH, OW] of quantised images q [N, C, H, W], each with its scale [N]."""
    views = _padded_windows(q, w.shape[2:], strides, pads, dilations, groups)
    y = np.empty((len(q), groups, w.shape[0] // groups, *views.shape[3:5]), np.float32)
    for image in range(len(q)):
        y[image] = _quantised_image(views[image], scale[image], w)
    return y


def _quantised_image(views: np.ndarray, scale: np.float32, w: EncodedArray | np.ndarray) -> np.ndarray:
    """f32 [groups, O / groups, OH, OW] of integer windows [groups, C / groups, OH, OW, KH, KW] of one image."""
    groups, _, height, width, *_ = views.shape
    depth, each = views[0, :, 0, 0].size, w.shape[0] // groups
    lines = max(1, _WINDOWS_AT_ONCE // max(1, width * depth))
    y = np.empty((groups, each, height, width), np.float32)
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        for line in range(0, height, lines):
            windows = views[group, :, line : line + lines].transpose(1, 2, 0, 3, 4).reshape(-1, depth)
            result = product(windows, np.full(len(windows), scale, np.float32), w, rows)
            y[group, :, line : line + lines] = result.T.reshape(each, -1, width)
    return y


def infer_conv_transpose2d(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    x, w = types[0], types[1]
    assert x is not None and w is not None
    _two(attrs, "strides", "pads", "dilations", "output_pads")
    n, c, *sizes = spatial(x, attrs["layout"])
    if w.rank != 4 or w.shape[0] != c or attrs["groups"] < 1 or int(c) % attrs["groups"]:
        raise TypeFault(f"weights {w} with {attrs['groups']} groups do not fit {x}", 1)
    if len(types) > 2 and types[2] is not None and types[2].shape != (w.shape[1] * attrs["groups"],):
        raise TypeFault(f"bias {types[2]} does not fit weights {w} with {attrs['groups']} groups", 2)
    h, width = (
        (sizes[i] - 1) * attrs["strides"][i]
        - attrs["pads"][i]
        - attrs["pads"][2 + i]
        + attrs["dilations"][i] * (int(w.shape[2 + i]) - 1)
        + attrs["output_pads"][i]
        + 1
        for i in (0, 1)
    )
    return image(x, n, w.shape[1] * attrs["groups"], h, width, attrs["layout"])


@op("nn.conv_transpose2d", Kind.ANCHOR, infer=infer_conv_transpose2d)
def conv_transpose2d(
    x: "f[_any]",
    w: "f[I, O, KH, KW]",
    bias: "f[_bias] | None" = None,
    *,
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = PADS,
    dilations: tuple[int, ...] = (1, 1),
    output_pads: tuple[int, ...] = (0, 0),
    groups: int = 1,
    layout: Literal["nchw", "nhwc"] = "nchw",
) -> "f[...]":
    """The transpose of conv2d as a linear map (weights [I, O / groups, KH, KW])."""
    dtype, x, w = x.dtype, numerics.wide(channels_first(x, layout)), numerics.wide(w)
    n, c, h, width = x.shape
    _, o, kh, kw = w.shape
    tall = (h - 1) * strides[0] + dilations[0] * (kh - 1) + 1 + output_pads[0]
    wide = (width - 1) * strides[1] + dilations[1] * (kw - 1) + 1 + output_pads[1]
    y = np.zeros((n, groups, o, tall, wide), x.dtype)
    parts = np.einsum(
        "ngchw,gcoij->ngohwij",
        x.reshape(n, groups, c // groups, h, width),
        w.reshape(groups, c // groups, o, kh, kw),
        optimize=True,
    )
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilations[0], i * dilations[0] + (h - 1) * strides[0] + 1, strides[0])
            columns = slice(j * dilations[1], j * dilations[1] + (width - 1) * strides[1] + 1, strides[1])
            y[:, :, :, rows, columns] += parts[..., i, j]
    y = y.reshape(n, groups * o, tall, wide)[:, :, pads[0] : tall - pads[2], pads[1] : wide - pads[3]]
    y = y if bias is None else y + bias[:, None, None]
    return in_layout(np.ascontiguousarray(y.astype(dtype)), layout)


def infer_pool(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    _two(attrs, "kernel", "strides", "pads", "dilations")
    n, c, *sizes = spatial(x, attrs["layout"])
    h, width = (
        window(
            sizes[i],
            attrs["kernel"][i],
            attrs["strides"][i],
            attrs["pads"][i],
            attrs["pads"][2 + i],
            attrs["dilations"][i],
            attrs["ceil"],
        )
        for i in (0, 1)
    )
    return image(x, n, c, h, width, attrs["layout"])


def _pool_views(x: np.ndarray, fill: float, attrs: dict[str, Any]) -> np.ndarray:
    """Windows of x [N, C, H, W], padded by `fill` up to the last (ceil) window."""
    widths = []
    for i in (0, 1):
        low, high, stride = attrs["pads"][i], attrs["pads"][2 + i], attrs["strides"][i]
        reach = (attrs["kernel"][i] - 1) * attrs["dilations"][i] + 1
        free = x.shape[2 + i] + low + high - reach
        count = (free + (stride - 1 if attrs["ceil"] else 0)) // stride + 1
        widths.append((low, max(high, (count - 1) * stride + reach - x.shape[2 + i] - low)))
    padded = np.pad(x, ((0, 0), (0, 0), *widths), constant_values=fill)
    return _windows(padded, attrs["kernel"], attrs["strides"], attrs["dilations"])


@op("nn.max_pool2d", infer=infer_pool)
def max_pool2d(
    x: "f[_any]",
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = PADS,
    dilations: tuple[int, ...] = (1, 1),
    ceil: bool = False,
    layout: Literal["nchw", "nhwc"] = "nchw",
) -> "f[...]":
    """Largest element of each window; padding never wins."""
    attrs = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations, "ceil": ceil}
    return in_layout(_pool_views(channels_first(x, layout), -np.inf, attrs).max((-2, -1)), layout)


@op("nn.avg_pool2d", infer=infer_pool)
def avg_pool2d(
    x: "f[_any]",
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...] = (1, 1),
    pads: tuple[int, ...] = PADS,
    dilations: tuple[int, ...] = (1, 1),
    ceil: bool = False,
    count_pads: bool = False,
    layout: Literal["nchw", "nhwc"] = "nchw",
) -> "f[...]":
    """Mean of each window; padding counts in the divisor only with count_pads (the overhang of `ceil` never does)."""
    x = channels_first(x, layout)
    attrs = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations, "ceil": ceil}
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if count_pads:
        ones = np.pad(ones, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=1)
        counts = _pool_views(ones, 0, attrs | {"pads": PADS})
    else:
        counts = _pool_views(ones, 0, attrs)
    return in_layout((_pool_views(x, 0, attrs).sum((-2, -1)) / counts.sum((-2, -1))).astype(x.dtype), layout)


def infer_resize(types: Sequence[Tensor | None], attrs: dict[str, Any]) -> Tensor:
    (x,) = types
    assert x is not None
    n, c, _, _ = spatial(x, attrs["layout"])
    if len(attrs["size"]) != 2 or len(attrs["scales"]) not in (0, 2):
        raise TypeFault("resize needs two sizes, and two scales or none")
    return image(x, n, c, *attrs["size"], attrs["layout"])


@op("nn.resize2d", infer=infer_resize)
def resize2d(
    x: "f[_any]",
    *,
    size: tuple[Dim, ...],
    scales: tuple[float, ...] = (),
    mode: Literal["nearest", "linear", "cubic"] = "nearest",
    coordinates: Literal["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"] = "half_pixel",
    rounding: Literal["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] = "round_prefer_floor",
    cubic_a: float = -0.75,
    layout: Literal["nchw", "nhwc"] = "nchw",
) -> "f[...]":
    """Resample an image to `size` [H, W]; modes, coordinates and rounding as in ONNX Resize.
    scales: output / input per axis where the source gives them (else the ratio of sizes)."""
    x = channels_first(x, layout)
    for axis in (0, 1):
        scale = scales[axis] if scales else size[axis] / x.shape[2 + axis]
        matrix = _resize_matrix(x.shape[2 + axis], size[axis], scale, mode, coordinates, rounding, cubic_a)
        x = np.moveaxis(np.tensordot(x, matrix.astype(x.dtype), axes=(2 + axis, 1)), -1, 2 + axis)
    return in_layout(np.ascontiguousarray(x), layout)


def _resize_matrix(
    size: int, out: int, scale: float, mode: str, coordinates: str, rounding: str, cubic_a: float
) -> np.ndarray:
    """[out, size]: how much of each input element an output element takes along one axis."""
    i = np.arange(out, dtype=np.float64)
    place = {
        "half_pixel": (i + 0.5) / scale - 0.5,
        "pytorch_half_pixel": (i + 0.5) / scale - 0.5 if out > 1 else i * 0,
        "asymmetric": i / scale,
        "align_corners": i * (size - 1) / max(out - 1, 1),
    }[coordinates]
    if mode == "nearest":
        rounded = {
            "round_prefer_floor": np.ceil(place - 0.5),
            "round_prefer_ceil": np.floor(place + 0.5),
            "floor": np.floor(place),
            "ceil": np.ceil(place),
        }[rounding]
        taps = [(rounded, np.ones(out))]
    else:
        base, part = np.floor(place), place - np.floor(place)
        taps = [(base, 1 - part), (base + 1, part)] if mode == "linear" else _cubic_taps(base, part, cubic_a)
    matrix = np.zeros((out, size))
    for index, share in taps:
        np.add.at(matrix, (np.arange(out), np.clip(index, 0, size - 1).astype(np.int64)), share)
    return matrix


def _cubic_taps(base: np.ndarray, t: np.ndarray, a: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """The four Keys (1981) weights around each place."""
    near, far = lambda d: ((a + 2) * d - (a + 3)) * d * d + 1, lambda d: ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return [(base - 1, far(t + 1)), (base, near(t)), (base + 1, near(1 - t)), (base + 2, far(2 - t))]
