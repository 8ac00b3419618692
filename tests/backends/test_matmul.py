"""nn.matmul of activations against the interpreter on every level: batches, broadcasts, views, odd sizes, epilogues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.types import Tensor
from tests.kernel_harness import close, compile_kernel, every_level, level, make_group, random_array, reference

RNG = np.random.default_rng(7)
NAMES = pytest.mark.parametrize("name", every_level())


def check(name: str, build: Callable[..., Any], *types: Tensor, sizes: list[dict[str, int]]) -> None:
    group = make_group(build, *types)
    run = compile_kernel(all_kernels()["nn.matmul/f32/panels"], group, level(name))
    for dims in sizes:
        inputs = [random_array(type, dims, RNG) for type in types]
        for pieces in (1, 3):
            close(run(*inputs, dims=dims, pieces=pieces)[0], reference(group, inputs, dims)[0], 1e-5)


@NAMES
def test_symbolic_batch_and_sizes(name: str) -> None:
    types = (Tensor.of("f32", "B", "M", "K"), Tensor.of("f32", "B", "K", "N"))
    sizes = [{"B": b, "M": m, "N": n, "K": k} for b, m, n, k in ((1, 1, 1, 1), (3, 7, 33, 5), (2, 205, 70, 40))]
    check(name, lambda b, x, y: b.nn.matmul(x, y), *types, sizes=sizes)


@NAMES
def test_broadcast_batch_with_epilogue(name: str) -> None:
    types = (Tensor.of("f32", 2, 1, "M", 8), Tensor.of("f32", 3, 8, 40), Tensor.of("f32", 1, "M", 40))
    check(name, lambda b, x, y, z: b.ew.tanh(b.ew.add(b.nn.matmul(x, y), z)), *types, sizes=[{"M": 5}, {"M": 29}])


@NAMES
def test_transposed_right(name: str) -> None:
    def build(b: Any, x: Any, y: Any) -> Any:
        return b.ew.mul(b.nn.matmul(x, b.view.transpose(y, perm=(0, 2, 1))), 0.125)

    check(name, build, Tensor.of("f32", 2, "M", 19), Tensor.of("f32", 2, "N", 19), sizes=[{"M": 30, "N": 45}])


@NAMES
def test_transposed_left_and_slices(name: str) -> None:
    def build(b: Any, x: Any, y: Any) -> Any:
        left = b.view.transpose(b.view.slice(x, axis=2, start=3, stop=20), perm=(0, 2, 1))
        return b.nn.matmul(left, b.view.slice(y, axis=2, start=1, stop=33))

    check(name, build, Tensor.of("f32", 2, "K", 24), Tensor.of("f32", 2, "K", 40), sizes=[{"K": 11}, {"K": 64}])


@NAMES
def test_heads_of_a_merged_projection(name: str) -> None:
    """[B, S, 3 * H * D] -> two [B, H, S, D] views, as in attention that was not recognised."""

    def build(b: Any, x: Any) -> Any:
        parts = b.view.reshape(x, shape=(*x.shape[:2], 3, 4, 8))
        turned = b.view.transpose(parts, perm=(2, 0, 3, 1, 4))
        q, k = (
            b.view.reshape(b.view.slice(turned, axis=0, start=i, stop=i + 1), shape=turned.shape[1:]) for i in (0, 1)
        )
        return b.nn.matmul(q, b.view.transpose(k, perm=(0, 1, 3, 2)))

    check(name, build, Tensor.of("f32", "B", "S", 96), sizes=[{"B": 2, "S": 37}, {"B": 1, "S": 1}])
