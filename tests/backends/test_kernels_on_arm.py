"""A sample of the kernels with NEON's register tiles under qemu-user, at odd sizes; the tests of each kernel run slowly
on all levels of ARM and RISC-V (`pytest -m slow tests/backends`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.group import Group
from nomul.backends.select import choose
from nomul.ir.types import Tensor
from tests.backends.test_linear import encoded, linear_group
from tests.kernel_harness import CompiledKernel, close, level, link, make_group, random_array, reference


def f32(*shape: Any) -> Tensor:
    return Tensor.of("f32", *shape)


def convolution(kernel: int, groups: int) -> Group:
    attrs = {"pads": (1,) * 4, "strides": (2, 1), "groups": groups, "layout": "nhwc"}
    types = (f32("B", 9, 13, 20), f32(20, 20 // groups, kernel, kernel), f32(20))
    return make_group(lambda b, x, w, bias: b.nn.conv2d(x, w, bias, **attrs), *types, weights=(1, 2))


def groups() -> dict[str, Group]:
    heads = (f32("B", "M", 4, 10), f32("B", "S", 2, 10), f32("B", "S", 2, 10))
    turned = (f32(11, "M"), f32(11, "S"))
    return {
        "linear": linear_group(("M",), 37, 83),
        "one panel": linear_group(("M",), 38, 20),
        "few columns": linear_group(("M",), 6, 3),
        "halves": linear_group(("M",), 21, 50, "f16"),
        "pointwise": make_group(lambda b, x, w: b.nn.linear(x, w), f32("M", 8), encoded("bf16", 40, 8), weights=(1,)),
        "convolution": convolution(3, 1),
        "depthwise": convolution(3, 20),
        "columns as rows": make_group(lambda b, x, y: b.nn.matmul(b.view.transpose(x, perm=(1, 0)), y), *turned),
        "attention": make_group(lambda b, q, k, v: b.nn.attention(q, k, v, scale=0.3, causal=True), *heads),
        "norm": make_group(lambda b, x, g, c: b.nn.layer_norm(x, g, c), f32("M", 21), f32(21), f32(21)),
    }


SIZES = ({"B": 1, "M": 1, "S": 1}, {"B": 2, "M": 13, "S": 13}, {"B": 1, "M": 35, "S": 71})


@pytest.mark.parametrize("name", ["aarch64-linux+neon"])
def test_sample(name: str) -> None:
    target, rng = level(name), np.random.default_rng(3)
    built = {case: (group, choose(group, [target]).built[0]) for case, group in groups().items()}
    entries = link({case.replace(" ", "_"): made.function for case, (_, made) in built.items()}, target)
    for case, (group, made) in built.items():
        run = CompiledKernel(group, made, target, entries[case.replace(" ", "_")])
        for sizes in SIZES:
            dims = {name: sizes[name] for name in group.dims}
            arrays = [random_array(param.type, dims, rng) for param in group.func.params]
            for pieces in (1, 3):
                close(run(*arrays, dims=dims, pieces=pieces)[0], reference(group, arrays, dims)[0], 2e-5)
