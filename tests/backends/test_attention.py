"""nn.attention against the interpreter on every level: odd sizes, grouped heads, masks, causal, merged Q/K/V views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.graph import Constant
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import close, compile_kernel, every_level, level, make_group, reference

RNG = np.random.default_rng(3)
FLASH = "nn.attention/f32/flash"


def random(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def compare(types: list[Tensor], arrays: list[np.ndarray], name: str, build: Any) -> None:
    group = make_group(build, *types)
    run = compile_kernel(all_kernels()[FLASH], group, level(name))
    expected = reference(group, arrays)[0]
    for pieces in (1, 3):
        close(run(*arrays, pieces=pieces)[0], expected, 2e-6)


MASKS = {
    "none": (None, None),
    "keys": (("B", 1, 1, "T"), "f32"),
    "heads": (("H", "S", "T"), "f32"),
    "bool": (("B", 1, "S", "T"), "bool"),
}


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("batch", "queries", "keys", "heads", "groups", "depth", "width", "causal"),
    [
        (1, 5, 7, 4, 2, 8, 8, False),
        (2, 33, 70, 3, 3, 17, 19, False),
        (1, 67, 67, 2, 1, 32, 32, True),
        (2, 1, 130, 4, 4, 16, 5, False),
    ],
)
def test_shapes_and_masks(
    name: str,
    mask: str,
    batch: int,
    queries: int,
    keys: int,
    heads: int,
    groups: int,
    depth: int,
    width: int,
    causal: bool,
) -> None:
    types = [
        Tensor.of("f32", "B", "S", heads, depth),
        Tensor.of("f32", "B", "T", groups, depth),
        Tensor.of("f32", "B", "T", groups, width),
    ]
    arrays = [
        random(batch, queries, heads, depth),
        random(batch, keys, groups, depth),
        random(batch, keys, groups, width),
    ]
    shape, dtype = MASKS[mask]
    if shape is not None:
        sizes = {"B": batch, "H": heads, "S": queries, "T": keys}
        types.append(Tensor.of(str(dtype), *(heads if size == "H" else size for size in shape)))
        drawn = random(*(sizes.get(str(size), 1) for size in shape))
        arrays.append(drawn > 0 if dtype == "bool" else np.where(drawn > 1, np.float32(-np.inf), drawn))
    compare(types, arrays, name, lambda b, *x: b.nn.attention(*x, scale=0.3, causal=causal))


@pytest.mark.parametrize("name", every_level())
def test_slices_of_a_merged_projection(name: str) -> None:
    """Q, K and V are slices of one row; K comes back from a transpose; the scale is negative."""

    def build(b: Builder, qkv: Any) -> Any:
        parts = [b.view.slice(qkv, axis=2, start=24 * i, stop=24 * (i + 1)) for i in range(3)]
        q, k, v = (b.view.reshape(part, shape=("B", "S", 3, 8)) for part in parts)
        k = b.view.transpose(b.view.transpose(k, perm=(0, 2, 1, 3)), perm=(0, 2, 1, 3))
        return b.nn.attention(q, k, v, scale=-0.5)

    compare([Tensor.of("f32", "B", "S", 72)], [random(2, 41, 72)], name, build)


@pytest.mark.parametrize("mask", [False, -1.5, -np.inf])
def test_a_mask_of_one_number(mask: float) -> None:
    number = Constant(mask, DType.BOOL if mask is False else DType.F32)
    types = [Tensor.of("f32", 1, tokens, 2, 8) for tokens in (5, 7, 7)]
    arrays = [random(1, tokens, 2, 8) for tokens in (5, 7, 7)]
    compare(types, arrays, "v3", lambda b, *x: b.nn.attention(*x, number, scale=0.3))


def test_refuses_what_it_cannot_do() -> None:
    half = [Tensor.of("f16", 1, 4, 2, 8)] * 3
    group = make_group(lambda b, *x: b.nn.attention(*x, scale=1.0), *half)
    assert all_kernels()[FLASH].accepts(group) == "operands are not f32"
