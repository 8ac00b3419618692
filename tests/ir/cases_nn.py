"""Products, normalisations, attention, convolutions, pooling and resizing against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import Case, numbers


def t(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


X, W, BIAS = numbers(2, 5, 8), numbers(3, 8), numbers(3)
LARGE, HALF_GAMMA = (numbers(2, 3, 8) * 2000).astype(np.float16), numbers(8).astype(np.float16)
GAMMA, BETA = numbers(8, seed=1), numbers(8, seed=2)
IMAGE = numbers(2, 4, 7, 9)
CHANNELS = [numbers(4, seed=seed) for seed in range(3)]
VARIANCE = numbers(4, low=0.1)
Q, K, V = numbers(2, 5, 6, 4), numbers(2, 7, 2, 4), numbers(2, 7, 2, 3)
BIAS_MASK, BOOL_MASK = numbers(6, 5, 7), numbers(2, 1, 5, 7) > -1.5


def _attention(mask: torch.Tensor | None = None, causal: bool = False) -> torch.Tensor:
    q, k, v = (t(a).transpose(1, 2) for a in (Q, K, V))
    y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=0.4, enable_gqa=True)
    return y.transpose(1, 2)


def _blind_row() -> Case:
    """A query that may see nothing gives zeros."""
    mask = np.ones((5, 7), np.bool_)
    mask[2] = False
    expected = _attention(t(np.where(mask, 0, -1e30).astype(np.float32))).numpy().copy()
    expected[:, 2] = 0
    return Case("nn.attention", [Q, K, V, mask], expected, {"scale": 0.4}, 1e-5)


def _conv(groups: int, strides: tuple[int, int], pads: tuple[int, int, int, int], dilations: tuple[int, int]) -> Case:
    weight = numbers(6, 4 // groups, 3, 2)
    bias = numbers(6)
    padded = F.pad(t(IMAGE), (pads[1], pads[3], pads[0], pads[2]))
    expected = F.conv2d(padded, t(weight), t(bias), strides, 0, dilations, groups)
    attrs = {"groups": groups, "strides": strides, "pads": pads, "dilations": dilations}
    return Case("nn.conv2d", [IMAGE, weight, bias], expected, attrs, 1e-5)


def _transposed(groups: int, stride: int, pad: int, output_pad: int, dilation: int) -> Case:
    weight, bias = numbers(4, 3, 3, 3), numbers(3 * groups)
    expected = F.conv_transpose2d(t(IMAGE), t(weight), t(bias), stride, pad, output_pad, groups, dilation)
    attrs: dict[str, Any] = {"groups": groups, "strides": (stride,) * 2, "pads": (pad,) * 4}
    attrs |= {"output_pads": (output_pad,) * 2, "dilations": (dilation,) * 2}
    return Case("nn.conv_transpose2d", [IMAGE, weight, bias], expected, attrs, 1e-5)


def _resize(size: tuple[int, int], mode: str, coordinates: str, torch_mode: str, corners: bool | None) -> Case:
    expected = F.interpolate(t(IMAGE), size, mode=torch_mode, align_corners=corners)
    attrs = {"size": size, "mode": mode, "coordinates": coordinates}
    if torch_mode == "nearest":
        attrs["rounding"] = "floor"
    return Case("nn.resize2d", [IMAGE], expected, attrs, 1e-5)


def nhwc(case: Case) -> Case:
    """The same case with the image's channels last."""
    image = np.ascontiguousarray(case.operands[0].transpose(0, 2, 3, 1))
    expected = case.results()[0].transpose(0, 2, 3, 1)
    return Case(case.op, [image, *case.operands[1:]], expected, case.attrs | {"layout": "nhwc"}, case.tolerance)


def _quantised() -> list[Case]:
    """Multiples of a quarter whose largest magnitude is 127 quarters, so that they are quantised exactly."""
    steps = np.random.default_rng(4).integers(-127, 128, (2, 5, 8))
    steps[..., 3] = 127
    q, scale = steps.astype(np.int8), np.full((2, 5), 0.25, np.float32)
    x, image = (q * np.float32(0.25)), np.random.default_rng(5).integers(-127, 128, (2, 4, 7, 9)).astype(np.int8)
    conv, scales = _conv(2, (2, 1), (1, 0, 2, 1), (1, 2)), np.array([0.5, 2], np.float32)
    pixels, (_, weight, bias) = t(image * scales[:, None, None, None]), conv.operands
    expected = F.conv2d(F.pad(pixels, (0, 1, 1, 2)), t(weight), t(bias), (2, 1), 0, (1, 2), 2)
    return [
        Case("nn.quantise", [x], (q, scale), {"lead": 2}),
        Case("nn.quantised_linear", [q, scale, W, BIAS], F.linear(t(x), t(W), t(BIAS)), tolerance=1e-4),
        Case("nn.quantised_conv2d", [image, scales, weight, bias], expected, conv.attrs, 1e-3),
    ]


IMAGES = [
    _conv(1, (1, 1), (0, 0, 0, 0), (1, 1)),
    _conv(2, (2, 1), (1, 0, 2, 1), (1, 2)),
    _transposed(1, 2, 1, 1, 1),
    _transposed(2, 1, 0, 0, 2),
    Case(
        "nn.max_pool2d",
        [IMAGE],
        F.max_pool2d(t(IMAGE), 3, 2, 1),
        {"kernel": (3, 3), "strides": (2, 2), "pads": (1,) * 4},
    ),
    Case(
        "nn.max_pool2d",
        [IMAGE],
        F.max_pool2d(t(IMAGE), 2, 2, ceil_mode=True),
        {"kernel": (2, 2), "strides": (2, 2), "ceil": True},
    ),
    Case(
        "nn.max_pool2d",
        [IMAGE],
        F.max_pool2d(t(IMAGE), (2, 3), 1, 0, 2),
        {"kernel": (2, 3), "dilations": (2, 2)},
    ),
    _resize((14, 18), "nearest", "asymmetric", "nearest", None),
    _resize((11, 5), "linear", "half_pixel", "bilinear", False),
    _resize((11, 5), "linear", "align_corners", "bilinear", True),
    _resize((10, 14), "cubic", "half_pixel", "bicubic", False),
    *(
        Case(
            "nn.avg_pool2d",
            [IMAGE],
            F.avg_pool2d(t(IMAGE), 3, 2, 1, ceil_mode=ceil, count_include_pad=count),
            {"kernel": (3, 3), "strides": (2, 2), "pads": (1,) * 4, "ceil": ceil, "count_pads": count},
        )
        for ceil in (False, True)
        for count in (False, True)
    ),
]


def _hadamard() -> Case:
    """Sylvester's matrix of order 4 on each half of the last axis."""
    two = np.array([[1, 1], [1, -1]])
    matrix = np.kron(np.eye(2), np.kron(two, two)) / 2
    return Case("nn.hadamard", [X], torch.from_numpy((X @ matrix).astype(np.float32)), {"block": 4})


CASES = [
    _hadamard(),
    *_quantised(),
    Case("nn.linear", [X, W], F.linear(t(X), t(W)), tolerance=1e-5),
    Case("nn.linear", [X, W, BIAS], F.linear(t(X), t(W), t(BIAS)), tolerance=1e-5),
    Case("nn.matmul", [X, numbers(8, 4)], t(X) @ t(numbers(8, 4)), tolerance=1e-5),
    Case(
        "nn.matmul",
        [numbers(3, 1, 4, 5), numbers(2, 5, 6)],
        t(numbers(3, 1, 4, 5)) @ t(numbers(2, 5, 6)),
        tolerance=1e-5,
    ),
    Case("nn.layer_norm", [X], F.layer_norm(t(X), (8,)), tolerance=1e-5),
    Case("nn.layer_norm", [X, GAMMA, BETA], F.layer_norm(t(X), (8,), t(GAMMA), t(BETA), 0.1), {"eps": 0.1}, 1e-5),
    Case("nn.layer_norm", [X, None, BETA], F.layer_norm(t(X), (8,), None, t(BETA)), tolerance=1e-5),
    Case("nn.rms_norm", [X, GAMMA], F.rms_norm(t(X), (8,), t(GAMMA), 1e-3), {"eps": 1e-3}, 1e-5),
    Case(
        "nn.group_norm", [IMAGE, *CHANNELS[:2]], F.group_norm(t(IMAGE), 2, *map(t, CHANNELS[:2])), {"groups": 2}, 1e-5
    ),
    Case("nn.layer_norm", [LARGE], F.layer_norm(t(LARGE), (8,)), tolerance=2e-3),
    Case("nn.rms_norm", [LARGE, HALF_GAMMA], F.rms_norm(t(LARGE), (8,), t(HALF_GAMMA), 1e-5), tolerance=2e-3),
    Case("nn.group_norm", [LARGE], F.group_norm(t(LARGE), 3), {"groups": 3}, 2e-3),
    Case("nn.softmax", [LARGE / 500], F.softmax(t(LARGE / 500), 2), {"axis": 2}, 2e-3),
    Case("nn.group_norm", [IMAGE], F.instance_norm(t(IMAGE)), {"groups": 4}, 1e-5),
    Case(
        "nn.batch_norm",
        [IMAGE, *CHANNELS, VARIANCE],
        F.batch_norm(t(IMAGE), t(CHANNELS[2]), t(VARIANCE), t(CHANNELS[0]), t(CHANNELS[1])),
        tolerance=1e-5,
    ),
    Case("nn.softmax", [X], F.softmax(t(X), 1), {"axis": 1}),
    Case("nn.softmax", [X * 100], F.softmax(t(X * 100), 2), {"axis": 2}),
    Case("nn.log_softmax", [X * 100], F.log_softmax(t(X * 100), 2), {"axis": 2}, 1e-5),
    Case("nn.attention", [Q, K, V], _attention(), {"scale": 0.4}, 1e-5),
    Case("nn.attention", [Q, K, V], _attention(causal=True), {"scale": 0.4, "causal": True}, 1e-5),
    Case("nn.attention", [Q, K, V, BIAS_MASK], _attention(t(BIAS_MASK)), {"scale": 0.4}, 1e-5),
    Case("nn.attention", [Q, K, V, BOOL_MASK], _attention(t(BOOL_MASK)), {"scale": 0.4}, 1e-5),
    _blind_row(),
    *IMAGES,
    *map(nhwc, IMAGES),
]
