"""Concatenation, pads and gathers against the interpreter on every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.dim import Dim
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import every_level, level_names, levels, make_group, reference
from tests.plain_kernels import Case, check, library_of, same_on_all_levels

RNG = np.random.default_rng(8)
CONCAT, PAD, GATHER = "view.concat/f32/joined", "view.pad/f32/bordered", "index.gather/f32/rows"
t = Tensor.of


def pad(*before: int | str, after: tuple[int | str, ...], mode: str) -> Callable[..., Any]:
    low, high = (tuple(Dim.of(size) for size in sizes) for sizes in (before, after))
    return lambda b, x: b.view.pad(x, before=low, after=high, mode=mode, value=-1.5 if mode == "constant" else 0.0)


CASES = {
    "channels": Case(
        CONCAT,
        lambda b, x, y: b.view.concat(x, y, axis=3),
        (t("f32", "B", 3, "W", 24), t("f32", "B", 3, "W", 7)),
        ({"B": 1, "W": 5}, {"B": 2, "W": 70}),
    ),
    "nodes_around": Case(
        CONCAT,
        lambda b, x, y, z: b.ew.mul(b.view.concat(b.ew.relu(x), b.view.transpose(y, perm=(1, 0)), x, axis=0), z),
        (t("f32", 1, "N"), t("f32", "N", "M"), t("f32", "N")),
        ({"M": 4, "N": 37},),
    ),
    "dims": Case(
        CONCAT,
        lambda b, x, y: b.view.concat(x, y, axis=1),
        (t("i64", 2, "S", 3), t("i64", 2, "T", 3)),
        ({"S": 4, "T": 1}, {"S": 1, "T": 900}),
    ),
    "zeros_around": Case(
        PAD, pad(0, 1, 2, 0, after=(0, 3, 0, 0), mode="constant"), (t("f32", 2, "H", 5, 7),), ({"H": 1}, {"H": 60})
    ),
    "flags": Case(
        PAD,
        lambda b, x: b.view.pad(x, before=(Dim.of(0), Dim.of("P")), after=(Dim.of(0), Dim.of(0))),
        (t("bool", "M", "N"),),
        ({"M": 3, "N": 80, "P": 70}, {"M": 3, "N": 8, "P": 0}),
    ),
    "reflection": Case(PAD, pad(3, 0, 2, after=(0, 0, 6), mode="reflect"), (t("f32", 5, "M", 40),), ({"M": 3},)),
    "edges": Case(PAD, pad(3, 2, after=(0, 20), mode="edge"), (t("f32", "M", "N"),), ({"M": 3, "N": 1},)),
    "wrapped": Case(PAD, pad(0, 2, after=(0, 20), mode="wrap"), (t("f32", "M", 20),), ({"M": 3},)),
    "embedding": Case(
        GATHER,
        lambda b, x, i, y, z: b.ew.add(b.ew.add(b.index.gather(x, i, axis=0), y), z),
        (t("f32", 5, 45), t("i64", "B", "S"), t("f32", 45), t("f32", "S", 45)),
        ({"B": 2, "S": 1}, {"B": 3, "S": 90}),
        weights=(0, 2),
    ),
    "middle_axis": Case(
        GATHER,
        lambda b, x, i: b.index.gather(x, b.ew.sub(i, 3), axis=1),
        (t("f16", "A", 5, 12), t("i32", 2, 3)),
        ({"A": 7},),
    ),
    "last_axis": Case(
        GATHER,
        lambda b, x, i: b.index.gather(x, i, axis=1),
        (t("f32", "A", 5), t("i64", "S")),
        ({"A": 3, "S": 1}, {"A": 3, "S": 50}),
    ),
    "full": Case(
        "make.full/f32/made",
        lambda b: b.make.full(shape=("M", Dim.of(37)), value=0.0, dtype=DType.F32),
        (),
        ({"M": 1}, {"M": 200}),
    ),
    "causal_mask": Case(
        "make.iota/f32/made",
        lambda b, x: b.ew.le(b.make.iota(size="S", start=2), b.ew.mul(x, 2)),
        (t("i64", "B", 1),),
        ({"B": 3, "S": 41},),
    ),
    "backwards": Case(
        "make.iota/f32/made", lambda b: b.make.iota(size="S", start="S", step=-3, dtype=DType.F16), (), ({"S": 41},)
    ),
    "size": Case("make.size/f32/made", lambda b: b.ew.add(b.make.size(size=Dim.of("S") * 2), 1), (), ({"S": 41},)),
    "one_row": Case(GATHER, lambda b, x, i: b.index.gather(x, i, axis=0), (t("i64", 9), t("i64")), ({},)),
}
LIBRARY = library_of(CASES)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", CASES)
def test_boxes(name: str, case: str) -> None:
    check(CASES[case], LIBRARY(name).kernels[case], RNG)


@pytest.mark.parametrize("case", CASES)
def test_levels_agree(case: str) -> None:
    same_on_all_levels(CASES[case], levels())


def test_indices_wrap_and_are_limited() -> None:
    kernel = LIBRARY(level_names()[0]).kernels["last_axis"]
    arrays = [RNG.standard_normal((3, 5)).astype(np.float32), np.array([-1, -5, -6, 4, 5, 2**40, -(2**62)] * 5)]
    np.testing.assert_array_equal(kernel(*arrays)[0], reference(kernel.group, arrays)[0])


@pytest.mark.parametrize("encoding", ["f16", "bf16"])
def test_rows_of_half_floats(encoding: str) -> None:
    from nomul.ir.encodings import get_encoding

    table = Tensor(t("f32").dtype, (Dim.of(6), Dim.of(33)), get_encoding(encoding))
    name = f"index.gather/{encoding}/rows"
    case = Case(name, lambda b, x, i: b.index.gather(x, i), (table, t("i64", "S")), ({"S": 5},), weights=(0,))
    for level_name in level_names():
        check(case, library_of({"k": case})(level_name).kernels["k"], RNG)


def test_refuses_pads_longer_than_the_operand() -> None:
    group = make_group(pad(3, after=(0,), mode="reflect"), t("f32", "N"))
    assert all_kernels()[PAD].accepts(group) == "a pad may be longer than the operand"
