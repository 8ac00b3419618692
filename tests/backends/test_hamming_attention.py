"""nn.hamming_attention against the interpreter on every level: odd sizes, tokens, bits; the generic kernel too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from kernel_harness import CompiledKernel, close, compile_kernels, every_level, level, make_group, reference

from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.types import Tensor

LOOKED_UP, GENERIC = "nn.hamming_attention/f32/looked_up", "any/f32/generic"


@dataclass(frozen=True)
class Form:
    heads: int
    bits: int
    width: int
    normalise: bool = True
    tail: bool = False


FORMS = [
    Form(2, 64, 64),
    Form(3, 16, 33, normalise=False),
    Form(1, 1, 1),
    Form(2, 23, 16, tail=True),
    Form(10, 7, 20),
    Form(1, 130, 70, normalise=False),
]
SIZES = [{"B": 2, "S": 1}, {"B": 1, "S": 67}, {"B": 2, "S": 39}]


def group_of(form: Form) -> Any:
    codes = Tensor.of("bool", "B", "S", form.heads, form.bits)
    values = Tensor.of("f32", "B", "S", form.heads, form.width)

    def build(b: Builder, q: Any, k: Any, v: Any, *tail: Any) -> Any:
        y = b.nn.hamming_attention(q, k, v, normalise=form.normalise)
        return b.ew.tanh(b.ew.add(y, tail[0])) if tail else y

    return make_group(build, codes, codes, values, *([values] if form.tail else []))


def check(kernels: list[CompiledKernel]) -> None:
    rng = np.random.default_rng(13)
    for kernel in kernels:
        for dims in SIZES:
            arrays = []
            for param in kernel.group.func.params:
                drawn = rng.standard_normal([size.evaluate(dims) for size in param.shape])
                arrays.append((drawn if param.dtype.is_float else drawn > 0).astype(param.dtype.numpy))
            expected = reference(kernel.group, arrays, dims)[0]
            close(kernel(*arrays, dims=dims, pieces=3)[0], expected, 5e-6)


@pytest.mark.parametrize("on", every_level())
def test_forms(on: str) -> None:
    check(compile_kernels(all_kernels()[LOOKED_UP], [group_of(form) for form in FORMS], level(on)))


def test_generic_kernel() -> None:
    forms = [Form(2, 5, 7), Form(1, 3, 2, normalise=False)]
    check(compile_kernels(all_kernels()[GENERIC], [group_of(form) for form in forms], level(every_level()[0])))


def test_no_value_gives_no_result() -> None:
    """A row of length 0 stays 0."""
    (kernel,) = compile_kernels(all_kernels()[LOOKED_UP], [group_of(FORMS[0])], level(every_level()[0]))
    codes, values = np.zeros((1, 5, 2, 64), np.bool_), np.zeros((1, 5, 2, 64), np.float32)
    assert not kernel(codes, codes, values)[0].any()


def test_memory_does_not_grow_with_tokens() -> None:
    built = all_kernels()[LOOKED_UP].build(group_of(FORMS[0]), level(every_level()[0]))
    assert built.scratch.value is not None
