"""Attention split along the keys against the interpreter on every level: parts, their merge, and both as a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nomul
from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Value
from nomul.ir.op import all_ops
from nomul.ir.types import Tensor
from tests.kernel_harness import close, compile_kernels, every_level, level, make_group, reference

PARTS, MERGE = "nn.attention_parts/f32/parts", "nn.attention_merge/f32/merge"
#        queries, heads, key heads, depth, width, heads before tokens
SHAPES = [(1, 4, 4, 32, 32, False), (1, 8, 2, 16, 40, False), (3, 6, 2, 17, 19, False), (2, 3, 3, 24, 7, True)]
RULES: list[dict[str, Any]] = [
    {},
    {"causal": True, "offset": 60},
    {"causal": True, "window": 9, "offset": 50, "softcap": 2.0},
]
CASES = [  # shape, rules, whether with mask, bias and lengths
    *((shape, RULES[0], False) for shape in SHAPES),
    (SHAPES[0], RULES[1], False),
    (SHAPES[1], RULES[0], True),
    (SHAPES[2], RULES[2], True),
    (SHAPES[3], RULES[1], True),
]
RNG = np.random.default_rng(11)


def types_of(shape: tuple[Any, ...]) -> list[Tensor]:
    queries, heads, key_heads, depth, width, turned = shape
    sizes = [("B", key_heads, "T", size) if turned else ("B", "T", key_heads, size) for size in (depth, width)]
    return [Tensor.of("f32", "B", queries, heads, depth), *(Tensor.of("f32", *size) for size in sizes)]


def group_of(shape: tuple[Any, ...], rules: dict[str, Any], extra: bool) -> Any:
    queries, heads = shape[:2]
    types = types_of(shape)
    if extra:  # a mask, a bias by distance, lengths
        types += [
            Tensor.of("f32", "B", 1, 1, "T"),
            Tensor.of("f32", heads, Dim.of("T") + (queries - 1)),
            Tensor.of("i64", "B"),
        ]

    def build(b: Builder, q: Any, k: Any, v: Any, *rest: Any) -> Any:
        if shape[5]:
            k, v = (b.view.transpose(x, perm=(0, 2, 1, 3)) for x in (k, v))
        return b.nn.attention_parts(q, k, v, *rest, scale=0.3, chunk=32, **rules)

    return make_group(build, *types)


def arrays_of(group: Any, dims: dict[str, int]) -> list[np.ndarray]:
    arrays = []
    for param in group.func.params:
        shape = [size.evaluate(dims) for size in param.shape]
        if str(param.dtype) == "i64":
            arrays.append(np.array([dims["T"] // 2 + 1, 0, dims["T"]][: dims["B"]]))
        else:
            drawn = RNG.standard_normal(shape).astype(np.float32)
            hides = len(arrays) == 3
            arrays.append(np.where(drawn > 1, np.float32(-np.inf), drawn) if hides else drawn)
    return arrays


@pytest.mark.parametrize("on", every_level())
def test_parts_and_merge(on: str) -> None:
    groups = [group_of(*case) for case in CASES]
    cases = zip(groups, compile_kernels(all_kernels()[PARTS], groups, level(on)), strict=True)
    for group, run in cases:
        width = int(group.anchor.args[2].shape[3])
        parts = Tensor.of("f32", "B", "C", *group.anchor.result.shape[2:])
        merge = make_group(lambda b, x: b.ew.relu(b.nn.attention_merge(x)), parts)
        (together,) = compile_kernels(all_kernels()[MERGE], [merge], level(on))
        for dims in ({"B": 2, "T": 1}, {"B": 1, "T": 64}, {"B": 3, "T": 101}):
            arrays = arrays_of(group, dims)
            got, expected = run(*arrays, pieces=3)[0], reference(group, arrays)[0]
            sees = np.broadcast_to(expected[..., -1:] > 0, expected.shape)
            close(np.where(sees, got, 0), np.where(sees, expected, 0), 3e-6)
            assert not got[..., :width][~sees[..., :width]].any() and not got[..., -1][~sees[..., -1]].any()
            close(together(got, pieces=2)[0], reference(merge, [expected])[0], 3e-6)


def test_a_model_of_many_keys() -> None:
    queries, heads, key_heads, depth, width, _ = SHAPES[2]
    params = [
        Value("q", Tensor.of("f32", 2, queries, heads, depth)),
        Value("k", Tensor.of("f32", 2, "T", key_heads, depth)),
        Value("v", Tensor.of("f32", 2, "T", key_heads, width)),
    ]
    func = Func("main", params)
    build = Builder(func)
    func.returns = [build.nn.attention(*params, scale=0.4)]
    module = Module()
    module.dims["T"] = (1, 5000)
    module.add_func(func)
    artifact = nomul.compile(module)
    for keys in (1, 127, 129, 1000):
        arrays = [RNG.standard_normal([size.evaluate({"T": keys}) for size in p.shape]).astype("f4") for p in params]
        expected = all_ops()["nn.attention"].function(*arrays, scale=0.4)
        for threads in (1, 2):
            close(artifact(*arrays, threads=threads)[0], expected, 3e-6)
    kernels = {name for kernel in artifact.facts["kernels"] for name in kernel["kernels"].values()}
    assert kernels - {"any/f32/copy"} == {PARTS, MERGE}


def test_symbolic_heads_stay_one_step() -> None:
    """No kernel but loops would read the parts of heads whose size is not known."""
    types = [Tensor.of("f32", 1, 1, 2, "D"), Tensor.of("f32", 1, "T", 2, "D"), Tensor.of("f32", 1, "T", 2, "D")]
    params = [Value(name, type) for name, type in zip("qkv", types, strict=True)]
    func = Func("main", params)
    func.returns = [Builder(func).nn.attention(*params, scale=0.4)]
    module = Module()
    module.dims |= {"T": (1, 5000), "D": (1, 8)}
    module.add_func(func)
    arrays = [RNG.standard_normal(shape).astype("f4") for shape in ((1, 1, 2, 5), (1, 300, 2, 5), (1, 300, 2, 5))]
    artifact = nomul.compile(module)
    assert [step for step in artifact.facts["steps"] if "parts" in step] == []
    close(artifact(*arrays)[0], all_ops()["nn.attention"].function(*arrays, scale=0.4), 3e-6)
