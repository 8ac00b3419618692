"""Kernels that differ only in sizes: they become one function, and compute bit for bit what they did alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nomul.backends.group import Group
from nomul.backends.registry import all_kernels
from nomul.backends.share import share
from nomul.ir.types import Tensor
from tests.kernel_harness import compile_kernel, compile_kernels, level, level_names, make_group

RNG = np.random.default_rng(11)


def linear(rows: str, depth: int, width: int, relu: bool = False) -> Group:
    def build(b: Any, x: Any, w: Any, bias: Any) -> Any:
        y = b.nn.linear(x, w, bias)
        return b.ew.relu(y) if relu else y

    types = (Tensor.of("f32", rows, depth), Tensor.of("f32", width, depth), Tensor.of("f32", width))
    return make_group(build, *types, ranges={rows: (1, 4096)}, weights=(1, 2))


def softmax(rows: Sequence[int | str], width: int | str) -> Group:
    return make_group(lambda b, x: b.nn.softmax(x, axis=len(rows)), Tensor.of("f32", *rows, width))


def added(shape: Sequence[int]) -> Group:
    return make_group(lambda b, x, y: b.ew.add(x, y), Tensor.of("f32", *shape), Tensor.of("f32", *shape))


def functions(kernel: str, groups: Sequence[Group]) -> dict[str, Any]:
    target = level(level_names()[-1])
    built = [all_kernels()[kernel].build(group, target) for group in groups]
    return {f"k{number}": one.function for number, one in enumerate(built)}


def arrays(group: Group, dims: dict[str, int]) -> list[np.ndarray]:
    shapes = [tuple(size.evaluate(dims) for size in param.shape) for param in group.func.params]
    return [RNG.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_sizes_and_names_of_dims_make_no_difference() -> None:
    groups = [linear("M", 384, 96), linear("M", 64, 256), linear("N", 384, 96), linear("M", 384, 96, relu=True)]
    result = share(functions("nn.linear/f32/packed", groups))
    (shared,) = (name.name_hint for name in result if not isinstance(name, str))
    users = [symbol for symbol in ("k0", "k1", "k2", "k3") if shared in str(result[symbol])]
    assert users == ["k0", "k1", "k2"]  # the last one ends in another operation


def test_a_register_tile_of_another_width_is_another_function() -> None:
    groups = [linear("M", 64, 96), linear("M", 64, 40)]
    alone = functions("nn.linear/f32/packed", groups)
    assert share(alone) == alone


def test_short_functions_stay() -> None:
    alone = functions("ew/f32/tree", [added((64,)), added((128,))])
    assert share(alone) == alone


@pytest.mark.parametrize("name", level_names())
@pytest.mark.parametrize(
    ("kernel", "groups"),
    [
        ("nn.linear/f32/packed", [linear("M", 384, 96), linear("M", 37, 64), linear("N", 5, 256), linear("N", 8, 96)]),
        ("nn.softmax/f32/softmax_rows", [softmax(("M", 3), 40), softmax((2, "N"), 40), softmax((7, 3), 72)]),
    ],
)
def test_results_are_the_same_bit_for_bit(name: str, kernel: str, groups: list[Group]) -> None:
    target = level(name)
    together = compile_kernels(all_kernels()[kernel], groups, target)
    for group, one in zip(groups, together, strict=True):
        alone = compile_kernel(all_kernels()[kernel], group, target)
        for size in (1, 6, 29):
            dims = dict.fromkeys(group.dims, size)
            given = arrays(group, dims)
            for left, right in zip(one(*given, dims=dims, pieces=2), alone(*given, dims=dims), strict=True):
                np.testing.assert_array_equal(left, right)
