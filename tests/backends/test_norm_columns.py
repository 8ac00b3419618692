"""Softmax over an inner axis, and group norm, against the interpreter on every level: odd sizes, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_harness import close, compile_kernels, every_level, level, level_names, make_group, random_array, reference

from nomul.backends.registry import all_kernels
from nomul.ir.types import Tensor

SOFTMAX, GROUP_NORM = "nn.softmax/f32/softmax_columns", "nn.group_norm/f32/group_norm_rows"


def image(*shape: int | str) -> Tensor:
    return Tensor.of("f32", *shape)


def softmax_and_more(b: Any, x: Any, y: Any) -> Any:
    return b.ew.sub(b.ew.mul(b.nn.softmax(x, axis=1), y), x)


def norm_between(b: Any, x: Any, y: Any, gamma: Any, scale: Any) -> Any:
    """A residual before, SiLU, a scale per channel and x again behind."""
    norm = b.nn.group_norm(b.ew.add(x, y), gamma, groups=3)
    return b.ew.add(b.ew.mul(b.ew.silu(norm), scale), x)


GROUPS: dict[str, list[tuple[Any, tuple[Tensor, ...]]]] = {
    SOFTMAX: [
        (lambda b, x: b.nn.softmax(x, axis=1), (image("B", "S", "T"),)),
        (lambda b, x: b.nn.softmax(x, axis=0), (image(5, 130),)),
        (lambda b, x: b.nn.softmax(x, axis=1), (image("B", 7, "S", 3),)),
        (lambda b, x: b.nn.softmax(x, axis=2), (image(2, "S", 9, "T"),)),
        (softmax_and_more, (image("B", "S", "T"), image("B", 1, "T"))),
    ],
    GROUP_NORM: [
        (lambda b, x: b.nn.group_norm(x, groups=2), (image("B", 6, "S", "T"),)),
        (lambda b, x, *w: b.nn.group_norm(x, *w, groups=6, eps=1e-3), (image("B", 6, "T"), image(6), image(6))),
        (lambda b, x, g: b.nn.group_norm(x, g, groups=1), (image(2, 4, 16, 8), image(4))),
        (norm_between, (image("B", 6, "S", "T"), image("B", 6, "S", "T"), image(6), image("B", 6, 1, 1))),
    ],
}


@pytest.mark.parametrize("on", every_level())
@pytest.mark.parametrize("name", GROUPS)
def test_groups(name: str, on: str) -> None:
    rng = np.random.default_rng(1)
    groups = [make_group(build, *types) for build, types in GROUPS[name]]
    for kernel in compile_kernels(all_kernels()[name], groups, level(on)):
        for dims in ({"B": 1, "S": 1, "T": 1}, {"B": 2, "S": 5, "T": 19}, {"B": 3, "S": 2, "T": 131}):
            arrays = [random_array(param.type, dims, rng) * 3 + 1 for param in kernel.group.func.params]
            expected = reference(kernel.group, arrays, dims)[0]
            close(kernel(*arrays, dims=dims, pieces=dims["B"])[0], expected, 1e-5)
            for position in kernel.built.inplace:
                close(kernel(*arrays, dims=dims, inplace=position)[0], expected, 1e-5)


def test_what_may_be_overwritten() -> None:
    inplace = {}
    for name, cases in GROUPS.items():
        groups = [make_group(build, *types) for build, types in cases]
        assert all(all_kernels()[name].accepts(group) is None for group in groups)
        built = [all_kernels()[name].build(group, level(level_names()[0])) for group in groups]
        inplace[name] = [one.inplace for one in built]
    assert inplace == {SOFTMAX: [(0,), (0,), (0,), (0,), ()], GROUP_NORM: [(0,), (0,), (0,), (0, 1)]}


def test_refusals() -> None:
    softmax, norm = all_kernels()[SOFTMAX].accepts, all_kernels()[GROUP_NORM].accepts
    assert softmax(make_group(lambda b, x: b.nn.softmax(x, axis=1), image(3, 4))) == "over the last axis"
    x, y = image("B", 4, 5), image(4, 1)
    before = make_group(lambda b, x, y: b.nn.group_norm(b.ew.add(x, y), groups=2), x, y)
    assert norm(before) == "an operand of a node before the norm broadcasts"
    behind = make_group(lambda b, x, y: b.ew.add(b.nn.group_norm(x, groups=2), y), x, image(5))
    assert norm(behind) == "an operand broadcasts along other axes than the positions"
