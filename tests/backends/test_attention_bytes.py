"""Attention with scores of bytes against the interpreter on every level: odd sizes, masks, queries that see nothing,
integers whose products would saturate 16 bits, and a model from floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nomul
from nomul.backends.registry import all_kernels
from nomul.backends.tir.dot import USES
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Value
from nomul.ir.op import all_ops
from nomul.ir.types import Tensor
from tests.kernel_harness import close, compile_kernels, level, levels_for, make_group, reference

BYTES = "nn.quantised_attention/f32/flash_bytes"
RNG = np.random.default_rng(17)
#        batch, queries, keys, heads, key heads, depth, width
SIZES = [(1, 5, 7, 4, 2, 8, 8), (2, 33, 70, 3, 3, 17, 19), (1, 67, 67, 2, 1, 32, 32), (2, 1, 130, 4, 4, 18, 5)]
RULES: list[dict[str, Any]] = [{}, {"causal": True, "softcap": 3.0}, {"window": 5, "causal": True}]
EXTRAS = ("none", "mask", "bool", "relative", "lengths", "tiles")
CASES = [
    *((size, RULES[0], "none") for size in SIZES),
    *((SIZES[1], RULES[i % 3], extra) for i, extra in enumerate(EXTRAS[1:])),
    (SIZES[2], RULES[1], "lengths"),
    (SIZES[2], RULES[2], "none"),
    ((1, 299, 301, 2, 1, 12, 9), RULES[1], "none"),  # ten tiles of queries a head, eight of which go side by side
]


def extra_of(kind: str, size: tuple[int, ...]) -> tuple[list[Tensor | None], list[np.ndarray]]:
    """Types of the operands behind the values, and an array for the last."""
    batch, queries, keys, heads, *_ = size
    if kind == "none":
        return [], []
    if kind in ("mask", "bool"):
        drawn = RNG.standard_normal((batch, 1, 1, keys)).astype(np.float32)
        array = drawn > 0 if kind == "bool" else np.where(drawn > 0.5, np.float32(-np.inf), drawn)
        return [Tensor.of("bool" if kind == "bool" else "f32", "B", 1, 1, "T")], [array]
    if kind == "relative":
        array = RNG.standard_normal((heads, queries + keys - 1)).astype(np.float32)
        return [None, Tensor.of("f32", heads, Dim.of("S") + Dim.of("T") - 1)], [array]
    if kind == "lengths":
        return [None, None, Tensor.of("i64", "B")], [np.array([keys // 2, 0][:batch])]
    return [None, None, None, Tensor.of("bool", 1, 1, 1, 2)], [np.array([[[[False, True]]]])]


def group_of(size: tuple[int, ...], rules: dict[str, Any], types: list[Tensor | None]) -> Any:
    _, queries, keys, heads, key_heads, depth, width = size
    known = types and types[-1] is not None and types[-1].rank == 4 and types[-1].shape[2:] == (Dim.of(1), Dim.of(2))
    s, t = (queries, keys) if known else ("S", "T")
    given = [
        Tensor.of("i8", "B", s, heads, depth),
        Tensor.of("f32", "B", s, heads),
        Tensor.of("i8", "B", t, key_heads, depth),
        Tensor.of("f32", "B", t, key_heads),
        Tensor.of("f32", "B", t, key_heads, width),
    ]
    absent = len(types) - 1

    def build(b: Builder, *args: Any) -> Any:
        rest = [None] * absent + list(args[5:]) if args[5:] else []
        return b.nn.quantised_attention(*args[:5], *rest, scale=0.5, **rules)

    return make_group(build, *given, *(type for type in types if type is not None))


def operands(size: tuple[int, ...]) -> list[np.ndarray]:
    """Sums of products are small, those of parts of a row as large as bytes make them."""
    batch, queries, keys, heads, key_heads, depth, width = size
    q = RNG.integers(-3, 4, (batch, queries, heads, depth)).astype(np.int8)
    k = RNG.integers(-3, 4, (batch, keys, key_heads, depth)).astype(np.int8)
    q[..., :4], k[..., :4] = (127, 127, -127, -127), 127
    scales = [np.exp2(RNG.integers(-2, 1, x.shape[:3])).astype(np.float32) for x in (q, k)]
    v = RNG.standard_normal((batch, keys, key_heads, width)).astype(np.float32)
    return [q, scales[0], k, scales[1], v]


@pytest.mark.parametrize("on", levels_for(*USES))
def test_sizes_masks_and_rules(on: str) -> None:
    if level(on).arch != "x86_64":
        pytest.skip("the kernel is for x86")
    extras = [extra_of(extra, size) for size, _, extra in CASES]
    groups = [group_of(size, rules, types) for (size, rules, _), (types, _) in zip(CASES, extras, strict=True)]
    kernels = compile_kernels(all_kernels()[BYTES], groups, level(on))
    for (size, _, _), (_, arrays), kernel in zip(CASES, extras, kernels, strict=True):
        given = [*operands(size), *arrays]
        expected = reference(kernel.group, given)[0]
        for pieces in (1, 3):
            close(kernel(*given, pieces=pieces)[0], expected, 3e-6)


@pytest.mark.parametrize(("threads", "tokens"), [(1, 100), (2, 100), (1, 5)])
def test_a_model_from_floats(threads: int, tokens: int) -> None:
    params = [Value(name, Tensor.of("f32", 1, tokens, 4, 24)) for name in "qkv"]
    func = Func("main", params)
    func.returns = [Builder(func).nn.attention(*params, scale=0.2, causal=True, scores="i8")]
    module = Module()
    module.add_func(func)
    artifact = nomul.compile(module)
    arrays = [RNG.standard_normal((1, tokens, 4, 24)).astype(np.float32) for _ in params]
    attention = all_ops()["nn.attention"].function
    got = artifact(*arrays, threads=threads)[0]
    close(got, attention(*arrays, scale=0.2, causal=True, scores="i8"), 3e-6)
    plain = attention(*arrays, scale=0.2, causal=True)
    assert 0 < np.abs(got - plain).max() < 0.05
    names = [name for kernel in artifact.facts["kernels"] for name in kernel["kernels"].values()]
    assert BYTES in names and not any("generic" in name for name in names)
