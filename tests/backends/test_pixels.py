"""Pooling and resizing of nhwc images against the interpreter on every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.dim import Dim
from nomul.ir.types import Tensor
from tests.kernel_harness import close, every_level, levels, make_group, reference
from tests.plain_kernels import Case, check, library_of, same_on_all_levels

RNG = np.random.default_rng(10)
MAX, AVERAGE, RESIZE = "nn.max_pool2d/f32/largest", "nn.avg_pool2d/f32/average", "nn.resize2d/f32/resampled"
t = Tensor.of
IMAGE = (t("f32", "B", "H", "W", 24),)
SIZES = ({"B": 1, "H": 3, "W": 3}, {"B": 2, "H": 7, "W": 130})


def max_pool(**attrs: Any) -> Callable[..., Any]:
    return lambda b, x: b.nn.max_pool2d(x, layout="nhwc", **attrs)


def average(**attrs: Any) -> Callable[..., Any]:
    return lambda b, x: b.nn.avg_pool2d(x, layout="nhwc", **attrs)


def resize(height: Dim | int, width: Dim | int, **attrs: Any) -> Callable[..., Any]:
    size = (Dim.of(height), Dim.of(width))
    return lambda b, x: b.nn.resize2d(x, size=size, layout="nhwc", **attrs)


H, W = Dim.of("H"), Dim.of("W")
CASES = {
    "max_with_pads": Case(MAX, max_pool(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), IMAGE, SIZES),
    "max_without_pads": Case(
        MAX, max_pool(kernel=(3, 2), strides=(3, 2)), (t("f32", "B", "H", "W", 37),), ({"B": 2, "H": 6, "W": 9},)
    ),
    "max_dilated_and_uneven": Case(
        MAX, max_pool(kernel=(2, 3), pads=(0, 2, 1, 1), dilations=(1, 2), ceil=True, strides=(2, 3)), IMAGE, SIZES[1:]
    ),
    "large_window": Case(MAX, max_pool(kernel=(5, 5), pads=(2, 2, 2, 2)), IMAGE, SIZES),
    "any_channels_and_nodes_behind": Case(
        MAX,
        lambda b, x, y: b.ew.mul(b.ew.relu(b.nn.max_pool2d(x, kernel=(2, 2), pads=(0, 0, 1, 1), layout="nhwc")), y),
        (t("f32", 1, "H", "W", "C"), t("f32", "C")),
        ({"H": 2, "W": 3, "C": 1}, {"H": 2, "W": 3, "C": 29}),
    ),
    "average_with_pads": Case(AVERAGE, average(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), IMAGE, SIZES),
    "average_counts_pads": Case(
        AVERAGE, average(kernel=(3, 3), strides=(2, 2), pads=(1, 0, 1, 1), count_pads=True, ceil=True), IMAGE, SIZES
    ),
    "average_of_halves": Case(
        AVERAGE, average(kernel=(3, 2), strides=(3, 2)), (t("f16", 1, 3, "W", 40),), ({"W": 8},), tolerance=1e-3
    ),
    "twice": Case(
        RESIZE, resize(H * 2, W * 2, coordinates="asymmetric", rounding="floor", scales=(2.0, 2.0)), IMAGE, SIZES
    ),
    "three_times_and_add": Case(
        RESIZE,
        lambda b, x, y: b.ew.add(y, b.nn.resize2d(x, size=(H * 3, W), layout="nhwc")),
        (t("f32", 1, "H", "W", 20), t("f32", 1, H * 3, "W", 20)),
        ({"H": 2, "W": 7},),
    ),
    "linear_twice": Case(RESIZE, resize(H * 2, W * 2, mode="linear"), IMAGE, SIZES),
    "linear_corners": Case(RESIZE, resize(5, 1, mode="linear", coordinates="align_corners"), IMAGE, SIZES),
    "linear_smaller": Case(RESIZE, resize(3, 19, mode="linear", coordinates="pytorch_half_pixel"), IMAGE, SIZES[1:]),
}
for _coordinates in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"):
    for _rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        CASES[f"{_coordinates}_{_rounding}"] = Case(
            RESIZE,
            resize(5, 97, coordinates=_coordinates, rounding=_rounding),
            (t("f32", 1, "H", "W", 3),),
            ({"H": 7, "W": 41},),
        )
LIBRARY = library_of(CASES)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", CASES)
def test_images(name: str, case: str) -> None:
    check(CASES[case], LIBRARY(name).kernels[case], RNG)


@pytest.mark.parametrize("case", ["max_with_pads", "average_counts_pads", "twice", "linear_twice"])
def test_levels_agree(case: str) -> None:
    same_on_all_levels(CASES[case], levels())


@pytest.mark.parametrize("name", every_level())
def test_nan_wins_and_pads_do_not(name: str) -> None:
    kernel = LIBRARY(name).kernels["max_with_pads"]
    x = np.full((1, 9, 9, 24), -np.inf, np.float32)
    x[0, 4, 4, 3] = np.nan
    x[0, 0, 0, 20] = -5
    close(kernel(x)[0], reference(kernel.group, [x])[0])


@pytest.mark.parametrize(
    ("kernel", "build", "reason"),
    [
        (MAX, lambda b, x: b.nn.max_pool2d(x, kernel=(2, 2)), "the layout is not nhwc"),
        (RESIZE, resize(9, 9, mode="cubic"), "the mode is cubic"),
        (
            AVERAGE,
            lambda b, x: b.nn.avg_pool2d(b.ew.neg(x), kernel=(2, 2), layout="nhwc"),
            "the image is computed inside the group",
        ),
    ],
)
def test_refusals(kernel: str, build: Any, reason: str) -> None:
    assert all_kernels()[kernel].accepts(make_group(build, t("f32", 1, 6, 6, 8))) == reason
