"""Reductions against the interpreter on every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.kernels.folds import REDUCTIONS
from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import every_level, levels, make_group, reference
from tests.plain_kernels import Case, check, library_of, same_on_all_levels

RNG = np.random.default_rng(9)
t = Tensor.of


def op(name: str) -> str:
    return f"reduce.{name}/f32/folded"


def pooled(b: Builder, x: Any, mask: Any, count: Any) -> Any:
    """Mean pooling of a sentence encoder: the nodes before and behind run in the kernel."""
    return b.ew.div(b.reduce.sum(b.ew.mul(x, mask), axes=(1,)), b.ew.clip(count, low=1e-9, high=1e9))


def largest_of_moved(b: Builder, x: Any) -> Any:
    """The reduced axis is the last of a transpose, hence not the contiguous one."""
    return b.reduce.max(b.view.transpose(x, perm=(0, 2, 1)), axes=(2,), keepdims=True)


CASES = {
    "image_mean": Case(
        op("mean"),
        lambda b, x: b.reduce.mean(x, axes=(1, 2), keepdims=True),
        (t("f32", "B", 3, "W", 75),),
        ({"B": 1, "W": 1}, {"B": 2, "W": 40}),
    ),
    "narrow_image": Case(op("sum"), lambda b, x: b.reduce.sum(x, axes=(0, 1)), (t("f32", 7, "W", 24),), ({"W": 9},)),
    "channels_first": Case(
        op("mean"),
        lambda b, x: b.reduce.mean(x, axes=(2, 3)),
        (t("f32", 2, 5, "H", "W"),),
        ({"H": 1, "W": 1}, {"H": 9, "W": 37}),
    ),
    "rows": Case(
        op("max"),
        lambda b, x, y: b.ew.sub(b.reduce.max(b.ew.abs(x), axes=(1,), keepdims=True), y),
        (t("f32", "M", "N"), t("f32", "M", 1)),
        ({"M": 3, "N": 1}, {"M": 5, "N": 5000}),
    ),
    "pooled": Case(
        op("sum"),
        pooled,
        (t("f32", "B", "S", 45), t("f32", "B", "S", 1), t("f32", "B", 45)),
        ({"B": 2, "S": 1}, {"B": 1, "S": 77}),
    ),
    "largest_of_moved": Case(op("max"), largest_of_moved, (t("f32", 2, "S", 37),), ({"S": 1}, {"S": 9})),
    "outer_and_inner": Case(
        op("sum"),
        lambda b, x: b.reduce.sum(x, axes=(0, 2)),
        (t("f32", "B", 3, "W"),),
        ({"B": 4, "W": 90},),
        tolerance=1e-5,
    ),
    "everything": Case(
        op("min"), lambda b, x: b.reduce.min(x, axes=(0, 1)), (t("f32", "B", "W"),), ({"B": 4, "W": 90},)
    ),
    "expanded": Case(
        op("sum"),
        lambda b, x: b.reduce.sum(b.view.expand(x, shape=("B", "S", 40)), axes=(1,)),
        (t("f32", "B", "S", 1),),
        ({"B": 2, "S": 9},),
    ),
    "integers": Case(op("sum"), lambda b, x: b.reduce.sum(x, axes=(1,)), (t("i32", 3, "N"),), ({"N": 77},)),
    "product": Case(op("prod"), lambda b, x: b.reduce.prod(x, axes=(1,)), (t("i64", 3, "N"),), ({"N": 27},)),
    "bytes": Case(op("max"), lambda b, x: b.reduce.max(x, axes=(0,)), (t("u8", "N", 150),), ({"N": 7},)),
    "any": Case(
        op("any"), lambda b, x: b.reduce.any(b.ew.gt(x, 2.0), axes=(1,)), (t("f32", 5, "N"),), ({"N": 3}, {"N": 70})
    ),
    "all": Case(op("all"), lambda b, x: b.reduce.all(x, axes=(0,)), (t("bool", 2, "N"),), ({"N": 3}, {"N": 70})),
    "halves": Case(op("max"), lambda b, x: b.reduce.max(x, axes=(1,)), (t("f16", 5, "N"),), ({"N": 70},)),
    "argmax": Case(
        op("argmax"),
        lambda b, x: b.reduce.argmax(x, axis=1),
        (t("f32", "M", "N"),),
        ({"M": 3, "N": 1}, {"M": 2, "N": 900}),
    ),
    "argmax_of_small_numbers": Case(
        op("argmax"),
        lambda b, x: b.reduce.argmax(x, axis=1, keepdims=True),
        (t("i64", "M", "N"),),
        ({"M": 9, "N": 70},),
    ),
    "argmin_across": Case(
        op("argmin"), lambda b, x: b.reduce.argmin(x, axis=0), (t("f32", "M", "N"),), ({"M": 9, "N": 70},)
    ),
}
LIBRARY = library_of(CASES)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", CASES)
def test_reductions(name: str, case: str) -> None:
    check(CASES[case], LIBRARY(name).kernels[case], RNG)


@pytest.mark.parametrize("case", CASES)
def test_levels_agree(case: str) -> None:
    same_on_all_levels(CASES[case], levels())


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", ["rows", "argmax", "everything", "argmin_across"])
def test_infinities_and_nan(name: str, case: str) -> None:
    kernel = LIBRARY(name).kernels[case]
    for odd in ([np.nan], [np.inf, -np.inf], [-np.inf] * 144, [np.nan] * 3 + [np.inf]):
        arrays = [
            RNG.standard_normal((2, 72) if case != "rows" or i == 0 else (2, 1)).astype(np.float32)
            for i in range(len(CASES[case].types))
        ]
        flat = arrays[0].reshape(-1)
        flat[RNG.choice(flat.size, len(odd), replace=False)] = odd
        expected = reference(kernel.group, arrays)[0]
        np.testing.assert_array_equal(kernel(*arrays)[0], expected)


def test_every_reduction_is_served() -> None:
    for name in REDUCTIONS:
        dtype = DType.BOOL if name in ("reduce.any", "reduce.all") else DType.F32
        attrs: dict[str, Any] = {"axis": 1} if "arg" in name else {"axes": (1,)}
        group = make_group(lambda b, x, name=name, attrs=attrs: b.op(name, x, **attrs), t(dtype, 3, "N"))
        assert all_kernels()[f"{name}/f32/folded"].accepts(group) is None
