"""Row norms and softmax against the interpreter on every level: odd sizes, nodes behind, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.types import Tensor
from tests.kernel_harness import close, compile_kernel, every_level, level, level_names, make_group, reference

RNG = np.random.default_rng(4)
KERNELS = {
    "layer_norm": ("nn.layer_norm/f32/layer_norm_rows", lambda b, x, *w: b.nn.layer_norm(x, *w, eps=1e-6), 2),
    "plain_layer_norm": ("nn.layer_norm/f32/layer_norm_rows", lambda b, x: b.nn.layer_norm(x), 0),
    "rms_norm": ("nn.rms_norm/f32/rms_norm_rows", lambda b, x, *w: b.nn.rms_norm(x, *w), 1),
    "softmax": ("nn.softmax/f32/softmax_rows", lambda b, x: b.nn.softmax(x, axis=2), 0),
    "log_softmax": ("nn.log_softmax/f32/log_softmax_rows", lambda b, x: b.nn.log_softmax(x, axis=2), 0),
    "softmax_and_more": (
        "nn.softmax/f32/softmax_rows",
        lambda b, x: b.ew.add(b.ew.mul(b.nn.softmax(x, axis=2), 2.0), x),
        0,
    ),
}


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", KERNELS)
@pytest.mark.parametrize("size", [1, 7, 16, 61, 64, 384, "D"])
def test_rows(name: str, case: str, size: int | str) -> None:
    kernel, build, weights = KERNELS[case]
    types = [Tensor.of("f32", "B", "M", size), *[Tensor.of("f32", size)] * weights]
    group = make_group(build, *types, weights=tuple(range(1, weights + 1)))
    run = compile_kernel(all_kernels()[kernel], group, level(name))
    for rows in (1, 5):
        width = 83 if size == "D" else int(size)
        x = (RNG.standard_normal((2, rows, width)) * 3 + 50).astype(np.float32)
        arrays = [x, *(RNG.standard_normal((weights, width)).astype(np.float32))]
        expected = reference(group, arrays)[0]
        close(run(*arrays, pieces=3)[0], expected, 2e-5)


@pytest.mark.parametrize("name", every_level())
def test_in_place(name: str) -> None:
    group = make_group(lambda b, x: b.nn.softmax(x, axis=1), Tensor.of("f32", "M", 45))
    run = compile_kernel(all_kernels()["nn.softmax/f32/softmax_rows"], group, level(name))
    assert run.built.inplace == (0,)
    x = RNG.standard_normal((6, 45)).astype(np.float32)
    close(run(x, inplace=0)[0], reference(group, [x])[0], 1e-6)


def test_a_row_that_hides_all_but_one_element() -> None:
    group = make_group(lambda b, x: b.nn.softmax(x, axis=1), Tensor.of("f32", "M", 45))
    x = np.full((2, 45), -np.inf, np.float32)
    x[:, 3] = -7
    run: Any = compile_kernel(all_kernels()["nn.softmax/f32/softmax_rows"], group, level(level_names()[0]))
    assert (run(x)[0] == (np.arange(45) == 3)).all()
