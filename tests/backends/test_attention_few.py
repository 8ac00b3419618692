"""Attention of a few queries against the interpreter on every level: one token, shared heads, odd sizes, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_harness import close, compile_kernels, every_level, level, make_group, reference

from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.types import Tensor

FEW = "nn.attention/f32/few"
#        queries, heads, key heads, depth, width
SHAPES = [(1, 4, 4, 32, 32), (1, 8, 2, 128, 128), (3, 6, 2, 17, 19), (8, 4, 1, 6, 80), (2, 3, 3, 24, 7)]
MASKS: dict[str, tuple[tuple[Any, ...], str]] = {
    "keys": (("B", 1, 1, "T"), "f32"),
    "heads": (("H", "S", "T"), "f32"),
    "bool": (("B", 1, "S", "T"), "bool"),
}


def group_of(shape: tuple[int, ...], mask: str | None, causal: bool, tail: bool = False) -> Any:
    queries, heads, key_heads, depth, width = shape
    types = [
        Tensor.of("f32", "B", queries, heads, depth),
        Tensor.of("f32", "B", "T", key_heads, depth),
        Tensor.of("f32", "B", "T", key_heads, width),
    ]
    if mask is not None:
        sizes, dtype = MASKS[mask]
        known = {"H": heads, "S": queries}
        types.append(Tensor.of(dtype, *(known.get(size, size) for size in sizes)))

    def build(b: Builder, *args: Any) -> Any:
        result = b.nn.attention(*args, scale=0.3, causal=causal)
        return b.ew.relu(b.ew.add(result, args[0])) if tail else result

    return make_group(build, *types)


CASES: list[tuple[tuple[int, ...], str | None, bool]] = [
    *((shape, None, False) for shape in SHAPES),
    *((shape, mask, False) for shape in SHAPES[1:3] for mask in MASKS),
    *((shape, None, True) for shape in SHAPES[2:]),
    (SHAPES[2], "keys", True),
]


@pytest.mark.parametrize("on", every_level())
def test_shapes_and_masks(on: str) -> None:
    rng = np.random.default_rng(5)
    groups = [group_of(*case) for case in CASES] + [group_of(SHAPES[0], None, False, tail=True)]
    for kernel in compile_kernels(all_kernels()[FEW], groups, level(on)):
        for dims in ({"B": 2, "T": 1}, {"B": 1, "T": 64}, {"B": 3, "T": 131}):
            arrays = []
            for param in kernel.group.func.params:
                drawn = rng.standard_normal([size.evaluate(dims) for size in param.shape]).astype(np.float32)
                is_mask = len(arrays) == 3
                hidden = np.where(drawn > 1, np.float32(-np.inf), drawn) if is_mask else drawn
                arrays.append(drawn > 0 if str(param.dtype) == "bool" else hidden)
            expected = reference(kernel.group, arrays)[0]
            close(kernel(*arrays, pieces=dims["B"])[0], expected, 3e-6)


def test_serves_few_queries_only() -> None:
    accepts = all_kernels()[FEW].accepts
    assert accepts(group_of((9, 2, 2, 8, 8), None, False)) == "not for at most 8 queries"
    assert accepts(group_of((8, 10, 2, 8, 8), None, False)) == "more than 32 query rows share a key head"
    assert accepts(group_of((8, 8, 2, 8, 8), None, False)) is None
