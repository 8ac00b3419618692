"""Generic kernels printed as C against the interpreter: every op, known and symbolic sizes, no undefined behaviour."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from kernel_harness import CompiledKernel, close, make_group, random_array, reference
from portable_c_harness import c_kernels
from test_generic import ALL, OTHER_SIZES, OTHERS, SIZES, check, group_of
from test_generic_groups import DIMS, GROUPS, t

SAMPLE = sorted({*range(0, len(ALL), 4), *(ALL.index(case) for case in {case.op: case for case in ALL}.values())})


@cache
def known_kernels(sampled: bool) -> dict[int, CompiledKernel]:
    """By position in ALL: the sample, or all others."""
    mine = SAMPLE if sampled else [i for i in range(len(ALL)) if i not in SAMPLE]
    return dict(zip(mine, c_kernels([group_of(ALL[i], SIZES) for i in mine]), strict=True))


@cache
def symbolic_kernels() -> list[CompiledKernel]:
    return c_kernels([group_of(case, None) for case in OTHERS], flags=("-O2", "-fsanitize=undefined"))


@pytest.mark.parametrize("number", SAMPLE, ids=lambda i: str(ALL[i]))
def test_known_sizes(number: int) -> None:
    check(known_kernels(True)[number], ALL[number], SIZES, {}, 1)


@pytest.mark.slow
def test_known_sizes_of_all_others() -> None:
    for number, kernel in known_kernels(False).items():
        check(kernel, ALL[number], SIZES, {}, 1)


@pytest.mark.parametrize("number", range(len(OTHERS)), ids=lambda i: str(OTHERS[i]))
def test_symbolic_sizes(number: int) -> None:
    kernel = symbolic_kernels()[number]
    for pieces, sizes in enumerate([SIZES, *OTHER_SIZES], 1):
        check(kernel, OTHERS[number], sizes, {name: sizes[name] for name in kernel.group.dims}, pieces)


def test_fused_groups() -> None:
    for kernel in c_kernels([make_group(build, *map(t, types)) for build, types in GROUPS]):
        rng = np.random.default_rng(0)
        arrays = [random_array(param.type, DIMS, rng) for param in kernel.group.func.params]
        expected = reference(kernel.group, arrays, DIMS)
        for got, right in zip(kernel(*arrays, dims=DIMS, pieces=3), expected, strict=True):
            close(got, right, 1e-5)
