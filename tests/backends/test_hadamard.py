"""The Walsh-Hadamard transform on every level: the definition's bits, odd sizes, in place."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_harness import compile_kernels, every_level, level, make_group, random_array, reference

from nomul.backends.registry import all_kernels
from nomul.ir.types import Tensor

KERNEL = all_kernels()["nn.hadamard/f32/butterflies"]
SIZES = [(2, 2), (6, 2), (24, 8), (192, 64), (384, 128), (256, 256), (1024, 512), (2048, 2048)]


@pytest.mark.parametrize("on", every_level())
def test_the_bits_of_the_definition(on: str) -> None:
    rng = np.random.default_rng(2)
    groups = [
        make_group(lambda b, x, block=block: b.nn.hadamard(x, block=block), Tensor.of("f32", "B", "S", size))
        for size, block in SIZES
    ]
    for kernel in compile_kernels(KERNEL, groups, level(on)):
        for dims in ({"B": 1, "S": 1}, {"B": 2, "S": 3}):
            (x,) = [random_array(param.type, dims, rng) for param in kernel.group.func.params]
            expected = reference(kernel.group, [x], dims)[0]
            assert np.array_equal(kernel(x, dims=dims, pieces=dims["B"])[0], expected)
            assert np.array_equal(kernel(x, dims=dims, inplace=0)[0], expected)


def test_refusals() -> None:
    assert KERNEL.accepts(make_group(lambda b, x: b.nn.hadamard(x, block=4), Tensor.of("f16", 4))) is not None
