"""Attention of keys and values that are stored in 8 or 4 bits, against the interpreter on every level, and as model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nomul
from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value
from nomul.ir.op import all_ops
from nomul.ir.types import Tensor
from tests.kernel_harness import close, compile_kernels, every_level, level, make_group, reference

STORED = "nn.attention_parts/f32/stored"
#        queries, heads, key heads, depth, width, heads before tokens
SHAPES = [(1, 4, 4, 32, 32, False), (1, 8, 2, 16, 40, False), (3, 6, 2, 18, 22, False), (2, 3, 3, 64, 6, True)]
RULES: list[dict[str, Any]] = [{}, {"causal": True, "window": 9, "offset": 50, "softcap": 2.0}]
CASES = [  # shape, type of the codes, rules, whether with a mask
    *((shape, kind, RULES[0], False) for shape in SHAPES for kind in ("i8", "u8")),
    (SHAPES[1], "u8", RULES[1], True),
    (SHAPES[2], "i8", RULES[1], True),
]
RNG = np.random.default_rng(31)


def group_of(case: tuple[Any, ...]) -> Any:
    (queries, heads, key_heads, depth, width, turned), kind, rules, masked = case
    sizes = [size // 2 if kind == "u8" else size for size in (depth, width)]
    types = [
        Tensor.of("f32", "B", queries, heads, depth),
        *(Tensor.of(kind, *(("B", key_heads, "T", n) if turned else ("B", "T", key_heads, n))) for n in sizes),
        *(Tensor.of("f32", "B", "T", key_heads),) * 2,
        *([Tensor.of("f32", "B", 1, 1, "T")] if masked else []),
    ]

    def build(b: Builder, q: Any, k: Any, v: Any, k_scale: Any, v_scale: Any, mask: Any = None) -> Any:
        if turned:
            k, v = (b.view.transpose(x, perm=(0, 2, 1, 3)) for x in (k, v))
        return b.nn.attention_parts(q, k, v, mask, None, None, k_scale, v_scale, scale=0.3, chunk=32, **rules)

    return make_group(build, *types)


def arrays_of(group: Any, dims: dict[str, int]) -> list[np.ndarray]:
    arrays: list[np.ndarray] = []
    for param in group.func.params:
        shape = [size.evaluate(dims) for size in param.shape]
        if param.dtype.is_float:
            drawn = RNG.standard_normal(shape).astype(np.float32)
            of_scale = len(shape) == 3
            arrays.append(np.abs(drawn) / 50 if of_scale else np.where(drawn > 2.0, np.float32(-np.inf), drawn))
            if len(arrays) == 1:
                arrays[0] = drawn
        else:
            low = 0 if str(param.dtype) == "u8" else -127
            arrays.append(RNG.integers(low, 128 if low else 256, shape).astype(param.dtype.numpy))
    return arrays


@pytest.mark.parametrize("on", every_level())
@pytest.mark.parametrize("name", [STORED, "any/f32/generic"])
def test_codes_scales_and_rules(on: str, name: str) -> None:
    groups = [group_of(case) for case in CASES]
    compiled = compile_kernels(all_kernels()[name], groups, level(on))
    for group, run in zip(groups, compiled, strict=True):
        for dims in ({"B": 2, "T": 1}, {"B": 1, "T": 64}, {"B": 2, "T": 101}):
            arrays = arrays_of(group, dims)
            got, expected = run(*arrays, pieces=3)[0], reference(group, arrays)[0]
            sees = np.broadcast_to(expected[..., -1:] > 0, expected.shape)
            close(np.where(sees, got, 0), np.where(sees, expected, 0), 1e-5)


@pytest.mark.parametrize("kind", ["i8", "i4"])
@pytest.mark.parametrize(("queries", "sizes"), [(1, (24, 16)), (1, (7, 5)), (40, (24, 16))])
def test_a_model_from_floats(kind: str, queries: int, sizes: tuple[int, int]) -> None:
    """One query reads codes, many queries read what codes are restored to."""
    params = [
        Value("q", Tensor.of("f32", 1, queries, 4, sizes[0])),
        *(Value(name, Tensor.of("f32", 1, "T", 2, size)) for name, size in zip("kv", sizes, strict=True)),
    ]
    func = Func("main", params)
    func.returns = [Builder(func).nn.attention(*params, scale=0.4)]
    module = Module()
    module.dims["T"] = (1, 1000)
    module.add_func(func)
    recipe = {"attention": [{"form": "softmax", "keys_values": kind}]}
    artifact = nomul.compile(module, recipe=recipe)
    attention = all_ops()["nn.attention"].function
    for keys in (1, 300):
        shapes = (1, queries, 4, sizes[0]), (1, keys, 2, sizes[0]), (1, keys, 2, sizes[1])
        arrays = [RNG.standard_normal(shape).astype(np.float32) for shape in shapes]
        got = artifact(*arrays, threads=2)[0]
        close(got, attention(*arrays, scale=0.4, keys_values=kind), 1e-5)
    names = {name for kernel in artifact.facts["kernels"] for name in kernel["kernels"].values()}
    assert (STORED in names) == (queries == 1) and not any("generic" in name for name in names)
