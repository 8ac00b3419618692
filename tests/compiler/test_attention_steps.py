"""Attention without softmax, from op to library: fast kernels only, memory that grows no faster than the tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nomul
from nomul.ir import interpreter
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value
from nomul.ir.types import Tensor

HEADS = Tensor.of("f32", 1, "S", 2, 8)
MAP = Tensor.of("f32", 2, 8, 8)


def hedgehog(b: Builder, q: Any, k: Any, v: Any, w: Any) -> Any:
    return b.nn.linear_attention(b.nn.hedgehog_map(q, w), b.nn.hedgehog_map(k, w), v, causal=True)


def hamming(b: Builder, q: Any, k: Any, v: Any) -> Any:
    return b.nn.hamming_attention(b.nn.hamming_codes(q), b.nn.hamming_codes(k), v)


FORMS: dict[str, tuple[list[Tensor], Callable[..., Any]]] = {
    "linear": ([HEADS] * 3, lambda b, *x: b.nn.linear_attention(*x, map="elu")),
    "gated": ([HEADS] * 4, lambda b, *x: b.nn.linear_attention(*x, map="softmax", causal=True, normalise=False)),
    "hedgehog": ([HEADS] * 3 + [MAP], hedgehog),
    "hamming": ([HEADS] * 3, hamming),
    "inline": ([HEADS] * 3, lambda b, *x: b.nn.inline_attention(*x, scale=0.3)),
    "liger": ([HEADS] * 6, lambda b, *x: b.nn.liger_attention(*x, scale=0.3, window=8)),
}


def module_of(form: str) -> Module:
    types, build = FORMS[form]
    func = Func("main", [Value(f"x{number}", type) for number, type in enumerate(types)])
    func.returns = [build(Builder(func), *func.params)]
    module = Module({"S": (1, 65536)})
    module.add_func(func)
    return module


@pytest.mark.parametrize("form", FORMS)
def test_fast_kernels_in_linear_memory(form: str, tmp_path: Path) -> None:
    artifact = nomul.compile(module_of(form), output=str(tmp_path / "m.so"))
    steps = artifact.facts["steps"]
    assert steps and not [step for step in steps if "generic" in step]
    few, many, most = (artifact.scratch_bytes({"S": tokens}) for tokens in (1024, 2048, 65536))
    assert most <= few + 63 * (many - few) + 4096
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal([size.evaluate({"S": 37}) for size in type.shape]) for type in FORMS[form][0]]
    arrays = [array.astype(np.float32) for array in arrays]
    if form in ("gated", "liger"):
        arrays[-1] = -np.abs(arrays[-1])
    expected = interpreter.run(module_of(form), *arrays)[0]
    np.testing.assert_allclose(artifact(*arrays)[0], expected, atol=2e-5 * np.abs(expected).max())
