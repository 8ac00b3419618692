"""Every op through the generic kernel on other architectures, under qemu; and which symbols their objects need."""

from __future__ import annotations

import pytest
from kernel_harness import compile_kernels, level
from test_generic import ALL, OTHER_SIZES, OTHERS, SIZES, Case, check, group_of

from nomul.backends.registry import all_kernels

TARGETS = ("aarch64-linux+neon", "rpi5", "arm-linux", "riscv64-linux")


def check_all(cases: list[Case], target: str) -> None:
    groups = [group_of(case, None) for case in cases]
    kernels = compile_kernels(all_kernels()["any/f32/generic"], groups, level(target))
    for case, kernel in zip(cases, kernels, strict=True):
        for pieces, sizes in enumerate([SIZES, OTHER_SIZES[1]] if case in OTHERS else [SIZES], 1):
            try:
                check(kernel, case, sizes, {name: sizes[name] for name in kernel.group.dims}, pieces)
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("target", ["aarch64-linux+neon", "arm-linux", "riscv64-linux"])
def test_some_ops_agree_with_the_interpreter(target: str) -> None:
    check_all(ALL[3::11], target)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_op_agrees_with_the_interpreter(target: str) -> None:
    check_all(ALL, target)
