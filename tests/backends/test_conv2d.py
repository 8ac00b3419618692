"""nn.conv2d in nhwc against the interpreter on every level: strides, pads, dilations, groups, epilogues, guards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.group import Group
from nomul.backends.registry import Kernel, all_kernels
from nomul.ir.dim import Dim
from nomul.ir.encodings import get_encoding
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import close, compile_kernel, every_level, level, make_group, reference

RNG = np.random.default_rng(6)


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def conv_group(
    image: Any, weights: tuple[int, ...], encoding: str | None = None, residual: bool = False, **attrs: Any
) -> Group:
    def build(b: Any, x: Any, w: Any, bias: Any) -> Any:
        return b.nn.conv2d(x, w, bias, layout="nhwc", **attrs)

    def fused(b: Any, x: Any, w: Any, bias: Any, other: Any) -> Any:
        return b.ew.silu(b.ew.add(build(b, x, w, bias), other))

    w = Tensor(DType.F32, tuple(Dim.of(size) for size in weights), get_encoding(encoding) if encoding else None)
    types = [Tensor.of("f32", *image), w, Tensor.of("f32", weights[0])]
    ranges = {"H": (1, 4096), "W": (1, 4096), "N": (1, 64)}
    if residual:
        types.append(make_group(build, *types, ranges=ranges, weights=(1, 2)).results[0])
    return make_group(fused if residual else build, *types, ranges=ranges, weights=(1, 2))


def accepting(group: Group, encoding: str | None = None) -> Kernel:
    kernels = [k for k in all_kernels().values() if k.op == "nn.conv2d" and k.encoding == encoding]
    (found,) = [k for k in kernels if k.accepts(group) is None]
    return found


CASES = [
    # image shape, weights, attributes
    ((1, "H", "W", 3), (16, 3, 3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1)}),
    ((1, 12, "W", 8), (40, 8, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 7, 7, 20), (33, 20, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 9, 50, 5), (32, 5, 5, 3), {"pads": (2, 0, 1, 2), "strides": (1, 2)}),
    (("N", "H", "W", 6), (18, 6, 3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
    ((1, 10, 14, 12), (18, 4, 3, 3), {"groups": 3, "pads": (1, 1, 1, 1)}),
    ((1, 10, 14, 64), (64, 32, 3, 3), {"groups": 2, "pads": (1, 1, 1, 1)}),
    ((1, 9, 11, 5), (10, 1, 3, 3), {"groups": 5, "pads": (1, 1, 1, 1)}),
    (("N", "H", "W", 17), (35, 17, 1, 1), {}),
    ((1, 13, 29, 9), (24, 9, 1, 1), {"strides": (2, 2)}),
    ((1, 8, 8, 3), (48, 3, 4, 4), {"strides": (4, 4)}),
]
SIZES = {"N": (1, 3), "H": (4, 11), "W": (5, 61)}


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize(("image", "weights", "attrs"), CASES)
@pytest.mark.parametrize("residual", [False, True])
def test_shapes(name: str, image: Any, weights: Any, attrs: Any, residual: bool) -> None:
    group = conv_group(image, weights, residual=residual, **attrs)
    run = compile_kernel(accepting(group), group, level(name))
    for turn in (0, 1):
        shape = tuple(SIZES[size][turn] if isinstance(size, str) else size for size in image)
        if min(shape[1] + 4, shape[2] + 6) < weights[2]:
            continue
        inputs = [random(*shape), random(*weights), random(weights[0])]
        if residual:
            plain = conv_group(image, weights, **attrs)
            inputs.append(random(*reference(plain, inputs)[0].shape))
        for pieces in (1, 3):
            close(run(*inputs, pieces=pieces)[0], reference(group, inputs)[0], 1e-5)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("encoding", ["f16", "bf16"])
@pytest.mark.parametrize("size", [1, 3])
def test_encodings(name: str, encoding: str, size: int) -> None:
    weights = (40, 6, size, size)
    group = conv_group((1, "H", "W", 6), weights, encoding, pads=(size // 2,) * 4)
    run = compile_kernel(accepting(group, encoding), group, level(name))
    inputs = [random(1, 9, 30, 6), random(*weights), random(40)]
    close(run(*inputs)[0], reference(group, inputs)[0], 1e-5)


DEPTHWISE = [
    # image shape, channels' kernels, attributes
    ((1, "H", "W", 16), (3, 3), {"pads": (1, 1, 1, 1)}),
    ((2, 7, 7, 40), (3, 3), {"pads": (1, 1, 1, 1)}),
    ((1, 14, 14, 33), (5, 5), {"pads": (2, 2, 2, 2), "strides": (2, 1)}),
    (("N", 9, "W", 8), (3, 5), {"pads": (1, 0, 2, 3), "strides": (1, 2)}),
    ((1, 12, 41, 3), (3, 3), {"pads": (2, 2, 2, 2), "dilations": (2, 2)}),
    ((1, 7, 7, 24), (7, 7), {"pads": (3, 3, 3, 3)}),
]


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize(("image", "kernel", "attrs"), DEPTHWISE)
@pytest.mark.parametrize("residual", [False, True])
def test_depthwise(name: str, image: Any, kernel: tuple[int, int], attrs: Any, residual: bool) -> None:
    weights = (image[3], 1, *kernel)
    attrs = attrs | {"groups": image[3]}
    group = conv_group(image, weights, residual=residual, **attrs)
    found = accepting(group)
    assert found.name == "nn.conv2d/f32/depthwise"
    run = compile_kernel(found, group, level(name))
    for turn in (0, 1):
        shape = tuple(SIZES[size][turn] if isinstance(size, str) else size for size in image)
        inputs = [random(*shape), random(*weights), random(weights[0])]
        if residual:
            plain = conv_group(image, weights, **attrs)
            inputs.append(random(*reference(plain, inputs)[0].shape))
        close(run(*inputs, pieces=3)[0], reference(group, inputs)[0], 1e-5)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("encoding", ["f16", "bf16"])
def test_depthwise_encodings(name: str, encoding: str) -> None:
    group = conv_group((1, 9, 21, 20), (20, 1, 3, 3), encoding, pads=(1, 1, 1, 1), groups=20)
    run = compile_kernel(accepting(group, encoding), group, level(name))
    inputs = [random(1, 9, 21, 20), random(20, 1, 3, 3), random(20)]
    close(run(*inputs)[0], reference(group, inputs)[0], 1e-5)
