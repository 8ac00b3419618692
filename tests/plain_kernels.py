"""Shared by the tests of plain kernels: one library for all cases of a level, and comparison with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from nomul.backends.group import Group
from nomul.backends.registry import Built, all_kernels
from nomul.backends.target import Target
from nomul.ir.types import Tensor
from tests.kernel_harness import CompiledKernel, close, level, link, make_group, random_array, reference


@dataclass(frozen=True)
class Case:
    """kernel: its name.  build: as for make_group.  sizes: values of the dims.  weights: their positions."""

    kernel: str
    build: Callable[..., Any]
    types: tuple[Tensor, ...]
    sizes: tuple[Mapping[str, int], ...] = ({},)
    weights: tuple[int, ...] = ()
    tolerance: float = 2e-6

    @property
    def group(self) -> Group:
        return make_group(self.build, *self.types, weights=self.weights)


class Linked(CompiledKernel):
    """A kernel whose code is in a library that others share."""

    def __init__(self, group: Group, built: Built, target: Target, entry: Any) -> None:
        self.group, self.built, self.target, self.entry = group, built, target, entry


class Library:
    """The kernels of all cases for one level."""

    def __init__(self, cases: Mapping[str, Case], name: str) -> None:
        target = level(name)
        built: dict[str, tuple[Group, Built]] = {}
        for case_name, case in cases.items():
            group, kernel = case.group, all_kernels()[case.kernel]
            reason = kernel.accepts(group)
            assert reason is None, f"{case_name}: {reason}"
            built[case_name] = group, kernel.build(group, target)
        entries = link({f"k_{case}": made.function for case, (_, made) in built.items()}, target)
        self.kernels = {case: Linked(*made, target, entries[f"k_{case}"]) for case, made in built.items()}


def library_of(cases: Mapping[str, Case]) -> Callable[[str], Library]:
    """Libraries by level, made when first asked for."""
    return cache(lambda name: Library(cases, name))


def check(case: Case, kernel: CompiledKernel, rng: np.random.Generator) -> None:
    """Results for all sizes, the tile range in one and in several pieces, and with every operand shared that may be."""
    for dims in case.sizes:
        arrays = [random_array(type, dims, rng) for type in case.types]
        expected = reference(kernel.group, arrays, dims)[0]
        for pieces in (1, 3):
            close(kernel(*arrays, dims=dims, pieces=pieces)[0], expected, case.tolerance)
        for position in kernel.built.inplace:
            close(kernel(*arrays, dims=dims, inplace=position)[0], expected, case.tolerance)


def same_on_all_levels(case: Case, targets: tuple[Target, ...]) -> None:
    """Tiles, layouts and shared operands must not depend on the level."""
    kernel, group = all_kernels()[case.kernel], case.group
    built = [kernel.build(group, target) for target in targets]
    assert len({(str(made.tiles), str(made.layouts), made.inplace) for made in built}) == 1
