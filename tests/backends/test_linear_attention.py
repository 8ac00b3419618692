"""nn.linear_attention against the interpreter on every level: odd sizes, every map, grouped heads, causal and not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernel_harness import CompiledKernel, close, compile_kernels, every_level, level, make_group, reference

from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.types import Tensor

CHUNKS, STEPS = "nn.linear_attention/f32/chunks", "nn.linear_attention/f32/steps"


@dataclass(frozen=True)
class Form:
    """heads: of queries and of keys.  sizes: of a key and of a value."""

    attrs: dict[str, Any]
    heads: tuple[int, int] = (2, 2)
    sizes: tuple[int, int] = (16, 16)
    tail: bool = False
    decay: bool = False

    @property
    def causal(self) -> bool:
        return bool(self.attrs.get("causal"))


CAUSAL = {"causal": True}
FORMS = [
    Form({"map": "elu"}, sizes=(64, 64)),
    Form({"map": "relu"}, heads=(4, 2), sizes=(17, 19)),
    Form({"map": "exp", "eps": 0.5}, heads=(3, 1), sizes=(7, 70), tail=True),
    Form({"map": "softmax"}, sizes=(33, 32)),
    Form({"normalise": False}, sizes=(1, 1)),
    Form(CAUSAL | {"map": "elu"}, sizes=(64, 64)),
    Form(CAUSAL | {"map": "softmax"}, heads=(4, 2), sizes=(19, 17)),
    Form(CAUSAL | {"map": "relu", "eps": 1e-3}, heads=(3, 1), sizes=(40, 33), tail=True),
    Form(CAUSAL | {"normalise": False}, sizes=(5, 1)),
    Form(CAUSAL | {"map": "exp"}, sizes=(1, 48)),
    Form({"map": "elu"}, heads=(11, 11), sizes=(9, 6)),
    Form(CAUSAL | {"map": "elu"}, heads=(20, 10), sizes=(8, 12)),
]
GATED = [
    Form(CAUSAL | {"map": "softmax", "normalise": False}, sizes=(64, 64), decay=True),
    Form(CAUSAL | {"map": "elu"}, heads=(4, 2), sizes=(17, 19), tail=True, decay=True),
    Form(CAUSAL | {"map": "relu", "eps": 1e-3}, heads=(3, 1), sizes=(5, 70), decay=True),
    Form(CAUSAL | {"normalise": False}, sizes=(1, 1), decay=True),
    Form(CAUSAL | {"map": "elu"}, heads=(20, 10), sizes=(8, 12), decay=True),
]
SIZES = [{"B": 2, "S": 1, "T": 1}, {"B": 1, "S": 67, "T": 130}, {"B": 2, "S": 200, "T": 64}]


def group_of(form: Form) -> Any:
    (heads, groups), (depth, width) = form.heads, form.sizes
    keys = "S" if form.causal else "T"
    types = [
        Tensor.of("f32", "B", "S", heads, depth),
        Tensor.of("f32", "B", keys, groups, depth),
        Tensor.of("f32", "B", keys, groups, width),
    ]
    if form.decay:
        types.append(types[1])
    if form.tail:
        types.append(Tensor.of("f32", "B", "S", heads, width))

    def build(b: Builder, *operands: Any) -> Any:
        tail = operands[-1:] if form.tail else ()
        y = b.nn.linear_attention(*operands[: len(operands) - len(tail)], **form.attrs)
        return b.ew.tanh(b.ew.add(y, tail[0])) if tail else y

    return make_group(build, *types)


def arrays_of(kernel: CompiledKernel, dims: dict[str, int]) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    shapes = [[size.evaluate(dims) for size in param.shape] for param in kernel.group.func.params]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def check(kernels: list[CompiledKernel], forms: list[Form]) -> None:
    for kernel, form in zip(kernels, forms, strict=True):
        for dims in SIZES:
            arrays = arrays_of(kernel, dims)
            if form.decay:
                arrays[3] = -np.abs(arrays[3]) * 2
            used = {name: dims[name] for name in kernel.group.dims}
            expected = reference(kernel.group, arrays, used)[0]
            close(kernel(*arrays, dims=used, pieces=3)[0], expected, 1e-5)


@pytest.mark.parametrize("on", every_level())
def test_forms(on: str) -> None:
    check(compile_kernels(all_kernels()[CHUNKS], [group_of(form) for form in FORMS], level(on)), FORMS)


@pytest.mark.parametrize("on", every_level())
def test_sums_that_shrink(on: str) -> None:
    check(compile_kernels(all_kernels()[STEPS], [group_of(form) for form in GATED], level(on)), GATED)


def test_memory_does_not_grow_with_tokens() -> None:
    for name, form in ((CHUNKS, FORMS[5]), (STEPS, GATED[0])):
        assert all_kernels()[name].build(group_of(form), level(every_level()[0])).scratch.value is not None


def test_refuses_what_it_cannot_do() -> None:
    accepts = all_kernels()[CHUNKS].accepts
    heads = [Tensor.of("f32", 1, 4, 2, 8)] * 4
    group = make_group(lambda b, *x: b.nn.linear_attention(*x, causal=True), *heads)
    assert accepts(group) == "sums that shrink go token by token"
    group = make_group(lambda b, *x: b.nn.linear_attention(*x, causal=True), *heads[:3])
    assert all_kernels()[STEPS].accepts(group) == "nothing shrinks the sums"
    half = [Tensor.of("f16", 1, 4, 2, 8)] * 3
    assert accepts(make_group(lambda b, *x: b.nn.linear_attention(*x), *half)) == "operands are not f32"


def test_slices_of_a_merged_projection() -> None:
    """Q, K and V are slices of one row."""

    def build(b: Builder, qkv: Any) -> Any:
        parts = [b.view.slice(qkv, axis=2, start=24 * i, stop=24 * (i + 1)) for i in range(3)]
        q, k, v = (b.view.reshape(part, shape=("B", "S", 3, 8)) for part in parts)
        return b.nn.linear_attention(q, k, v, map="elu", causal=True)

    group = make_group(build, Tensor.of("f32", "B", "S", 72))
    (kernel,) = compile_kernels(all_kernels()[CHUNKS], [group], level(every_level()[0]))
    arrays = arrays_of(kernel, {"B": 2, "S": 41})
    close(kernel(*arrays)[0], reference(group, arrays)[0], 1e-5)
