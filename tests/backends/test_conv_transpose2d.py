"""nn.conv_transpose2d in nhwc against the interpreter on every level: kernels above, at and below the stride, pads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.dim import Dim
from nomul.ir.encodings import get_encoding
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import close, compile_kernel, every_level, level, make_group, random_array, reference

RNG = np.random.default_rng(8)
CASES = [
    # input channels and kernels [I, O, KH, KW], attributes
    ((24, 24, 2, 2), {"strides": (2, 2)}),
    ((5, 1, 2, 2), {"strides": (2, 2)}),
    ((8, 32, 3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "output_pads": (1, 1)}),
    ((7, 40, 4, 5), {"strides": (2, 3), "pads": (1, 2, 0, 1)}),
    ((4, 33, 3, 3), {"pads": (1, 1, 1, 1)}),
    ((6, 10, 1, 2), {"strides": (3, 4)}),
]


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("weights", "attrs"), CASES)
def test_shapes(name: str, fused: bool, weights: tuple[int, ...], attrs: dict[str, Any]) -> None:
    def build(b: Any, x: Any, w: Any, bias: Any) -> Any:
        y = b.nn.conv_transpose2d(x, w, bias, layout="nhwc", **attrs)
        return b.ew.sigmoid(y) if fused else y

    types = [Tensor.of("f32", "N", "H", "W", weights[0]), Tensor.of("f32", *weights), Tensor.of("f32", weights[1])]
    group = make_group(build, *types, weights=(1, 2))
    run = compile_kernel(all_kernels()["nn.conv_transpose2d/f32/phases"], group, level(name))
    for dims in ({"N": 1, "H": 1, "W": 1}, {"N": 2, "H": 5, "W": 61}):
        inputs = [random_array(type, dims, RNG) for type in types]
        for pieces in (1, 3):
            close(run(*inputs, pieces=pieces)[0], reference(group, inputs)[0], 1e-5)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("encoding", ["f16", "bf16"])
def test_encodings(name: str, encoding: str) -> None:
    sizes = (6, 20, 3, 3)
    encoded = Tensor(DType.F32, tuple(Dim.of(size) for size in sizes), get_encoding(encoding))
    types = [Tensor.of("f32", 1, 4, 9, 6), encoded, Tensor.of("f32", 20)]
    group = make_group(
        lambda b, x, w, bias: b.nn.conv_transpose2d(x, w, bias, layout="nhwc", strides=(2, 2)), *types, weights=(1, 2)
    )
    kernel = all_kernels()[f"nn.conv_transpose2d/{encoding}/phases_{encoding}"]
    inputs = [random_array(type, {}, RNG) for type in types]
    close(compile_kernel(kernel, group, level(name))(*inputs)[0], reference(group, inputs)[0], 1e-5)
