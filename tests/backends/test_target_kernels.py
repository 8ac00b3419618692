"""Every op through the generic kernel on other architectures, under qemu; and which symbols their objects need."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulate_kernels import Call, EmulatedKernels
from kernel_harness import close, reference
from test_generic import ALL, OTHER_SIZES, OTHERS, SIZES, Case, group_of, inputs_of

from nomul.backends.registry import all_kernels
from nomul.backends.target import find_target

CPUS = {"aarch64-linux+neon": "cortex-a53", "rpi5": "cortex-a76", "arm-linux": "cortex-a7", "riscv64-linux": "rv64"}


def check(cases: list[Case], target: str, folder: Path) -> None:
    groups = [group_of(case, None) for case in cases]
    kernels = EmulatedKernels(all_kernels()["any/f32/generic"], groups, find_target(target)[0], folder)
    calls = []
    for number, case in enumerate(cases):
        for pieces, sizes in enumerate([SIZES, OTHER_SIZES[1]] if case in OTHERS else [SIZES], 1):
            dims = {name: sizes[name] for name in groups[number].dims}
            calls.append(Call(number, inputs_of(case, sizes, seed=pieces), dims, pieces))
    for call, results in zip(calls, kernels(calls, CPUS[target]), strict=True):
        case, expected = cases[call.kernel], reference(groups[call.kernel], call.inputs, call.dims)
        for got, wanted in zip(results, expected, strict=True):
            try:
                close(got, wanted, case.tolerance)
            except AssertionError as error:
                raise AssertionError(f"{case}: {error}") from error


@pytest.mark.parametrize("target", ["aarch64-linux+neon", "arm-linux", "riscv64-linux"])
def test_some_ops_agree_with_the_interpreter(target: str, tmp_path: Path) -> None:
    check(ALL[3::11], target, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", list(CPUS))
def test_every_op_agrees_with_the_interpreter(target: str, tmp_path: Path) -> None:
    check(ALL, target, tmp_path)
