"""Attention with products of bf16, and of half floats, against the interpreter on every level: odd sizes, masks, rows
that see nothing, and a model from floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_attention_bytes import extra_of

import nomul
from nomul.backends.registry import all_kernels
from nomul.backends.tir.bf16_pairs import FEATURE
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Value
from nomul.ir.op import all_ops
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import close, compile_kernels, level, levels_for, make_group, reference

COPIED = "nn.attention/f32/copied"
RNG = np.random.default_rng(23)
#        batch, queries, keys, heads, key heads, depth, width
SIZES = [(1, 5, 7, 4, 2, 8, 8), (2, 33, 71, 3, 3, 17, 19), (1, 67, 67, 2, 1, 64, 32), (2, 1, 130, 4, 4, 18, 5)]
RULES: list[dict[str, Any]] = [{}, {"causal": True, "softcap": 3.0}, {"window": 5, "causal": True}]
CASES = [  # size, rules, what stands behind the values, type of the operands, scores
    *((size, RULES[0], "none", "f32", "bf16") for size in SIZES),
    *(
        (SIZES[1], RULES[i % 3], extra, "f32", "bf16")
        for i, extra in enumerate(("mask", "bool", "relative", "lengths"))
    ),
    (SIZES[1], RULES[0], "tiles", "f32", "bf16"),
    (SIZES[2], RULES[1], "lengths", "bf16", "bf16"),
    (SIZES[1], RULES[2], "none", "bf16", "f32"),
    (SIZES[3], RULES[0], "none", "f16", "f32"),
    (SIZES[0], RULES[1], "none", "f16", "bf16"),
    ((1, 299, 301, 2, 1, 12, 9), RULES[1], "none", "f32", "bf16"),  # ten tiles of queries a head, eight side by side
]
ROUNDING = 2.0**-7  # of weights, relative to a maximum that the kernel does not know before the last block


def group_of(case: tuple[Any, ...], types: list[Tensor | None]) -> Any:
    (_, queries, keys, heads, key_heads, depth, width), rules, extra, dtype, scores = case
    s, t = (queries, keys) if extra == "tiles" else ("S", "T")
    given = [
        Tensor.of(dtype, "B", s, heads, depth),
        Tensor.of(dtype, "B", t, key_heads, depth),
        Tensor.of(dtype, "B", t, key_heads, width),
    ]

    def build(b: Builder, *args: Any) -> Any:
        rest = [None] * (len(types) - 1) + list(args[3:]) if args[3:] else []
        return b.nn.attention(*args[:3], *rest, scale=0.5, scores=scores, **rules)

    return make_group(build, *given, *(type for type in types if type is not None))


def operands(case: tuple[Any, ...]) -> list[np.ndarray]:
    (batch, queries, keys, heads, key_heads, depth, width), *_, dtype, _ = case
    shapes = (batch, queries, heads, depth), (batch, keys, key_heads, depth), (batch, keys, key_heads, width)
    return [RNG.standard_normal(shape).astype(DType(dtype).numpy) for shape in shapes]


@pytest.mark.parametrize("on", levels_for(FEATURE))
def test_sizes_masks_and_types(on: str) -> None:
    extras = [extra_of(extra, size) for size, _, extra, *_ in CASES]
    groups = [group_of(case, types) for case, (types, _) in zip(CASES, extras, strict=True)]
    kernels = compile_kernels(all_kernels()[COPIED], groups, level(on))
    for case, (_, arrays), kernel in zip(CASES, extras, kernels, strict=True):
        given = [*operands(case), *arrays]
        expected = reference(kernel.group, given)[0].astype(np.float32)
        tolerance = 3e-6 if case[3:] == ("f32", "f32") else ROUNDING
        whole = kernel(*given, pieces=1)[0]
        close(whole.astype(np.float32), expected, tolerance)
        np.testing.assert_array_equal(kernel(*given, pieces=3)[0], whole)


def test_one_visible_key_is_copied_exactly() -> None:
    """Its weight is one, so that the result is its value rounded to bf16."""
    size = (1, 40, 40, 2, 2, 16, 16)
    case = (size, {"causal": True, "window": 1}, "none", "f32", "bf16")
    for on in levels_for(FEATURE):
        (kernel,) = compile_kernels(all_kernels()[COPIED], [group_of(case, [])], level(on))
        q, k, v = operands(case)
        got = kernel(q, k, v)[0]
        np.testing.assert_array_equal(got, v.astype(DType.BF16.numpy).astype(np.float32))


@pytest.mark.parametrize(("threads", "tokens"), [(1, 100), (2, 100), (1, 5)])
def test_a_model_from_floats(threads: int, tokens: int) -> None:
    params = [Value(name, Tensor.of("f32", 1, Dim.of(tokens), 4, 24)) for name in "qkv"]
    func = Func("main", params)
    func.returns = [Builder(func).nn.attention(*params, scale=0.2, causal=True)]
    module = Module()
    module.add_func(func)
    artifact = nomul.compile(module, recipe={"attention": [{"form": "softmax", "scores": "bf16"}]})
    arrays = [RNG.standard_normal((1, tokens, 4, 24)).astype(np.float32) for _ in params]
    attention = all_ops()["nn.attention"].function
    got = artifact(*arrays, threads=threads)[0]
    close(got, attention(*arrays, scale=0.2, causal=True, scores="bf16"), ROUNDING)
    assert 0 < np.abs(got - attention(*arrays, scale=0.2, causal=True)).max() < 0.05
    assert {name for kernel in artifact.facts["kernels"] for name in kernel["kernels"].values()} == {COPIED}
