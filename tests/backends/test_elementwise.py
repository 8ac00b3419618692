"""Trees of element-wise nodes and views against the interpreter on every level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nomul.backends.registry import all_kernels
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import every_level, levels, make_group
from tests.plain_kernels import Case, check, library_of, same_on_all_levels

RNG = np.random.default_rng(7)
TREE = "ew/f32/tree"
t = Tensor.of


def joined_heads(b: Builder, x: Any, y: Any) -> Any:
    """[B, H, S, D] + 1 as [B, S, H * D], scaled by another tensor: the last loop must be split."""
    moved = b.view.transpose(b.ew.add(x, 1.0), perm=(0, 2, 1, 3))
    return b.ew.mul(b.view.reshape(moved, shape=("B", "S", 24)), y)


def back_and_forth(b: Builder, x: Any, y: Any) -> Any:
    """Views that cancel (as in PP-OCR)."""
    x = b.view.reshape(b.view.transpose(x, perm=(0, 3, 1, 2)), shape=("B", 20, "S"))
    total = b.ew.add(b.view.transpose(y, perm=(0, 2, 1)), x)
    return b.view.transpose(total, perm=(0, 2, 1))


def broadcast_inside(b: Builder, x: Any, y: Any) -> Any:
    """An operand that broadcasts under a reshape."""
    scaled = b.ew.mul(x, b.view.reshape(y, shape=(5, 1)))
    return b.ew.neg(b.view.reshape(scaled, shape=(Dim.of("S") * 5,)))


def rotated(b: Builder, x: Any, y: Any) -> Any:
    """Halves with a sign, as in rotary embeddings: a slice on either side, and every second element backwards."""
    even = b.view.slice(x, axis=1, stop=30, step=2)
    back = b.view.slice(x, axis=1, start=29, stop=-1, step=-2)
    return b.ew.sub(b.ew.mul(even, y), back)


def picked(b: Builder, x: Any, y: Any) -> Any:
    return b.ew.where(b.ew.and_(b.ew.gt(x, y), b.ew.not_(b.ew.is_nan(y))), x, b.ew.neg(y))


def positions(b: Builder, x: Any, y: Any) -> Any:
    """i64 arithmetic that ends in bool."""
    return b.ew.le(b.view.reshape(x, shape=("S", 1)), b.ew.add(b.view.reshape(y, shape=(1, "T")), 2))


def halves(b: Builder, x: Any, y: Any) -> Any:
    """f16 times bf16, in f32."""
    return b.ew.cast(b.ew.mul(b.ew.cast(x, dtype=DType.F32), b.ew.cast(y, dtype=DType.F32)), dtype=DType.F16)


CASES = {
    "flat": Case(
        TREE,
        lambda b, x, y: b.ew.add(b.ew.mul(x, 3.0), y),
        (t("f32", "A", 3, "S"), t("f32", "A", 3, "S")),
        ({"A": 2, "S": 5}, {"A": 9, "S": 400}),
    ),
    "channels": Case(
        TREE, lambda b, x, y: b.ew.mul(x, y), (t("f32", 2, "H", 5, 24), t("f32", 2, 1, 1, 24)), ({"H": 1}, {"H": 90})
    ),
    "rows": Case(
        TREE,
        lambda b, x, y: b.ew.sub(x, b.ew.exp(y)),
        (t("f32", "M", "N"), t("f32", "M", 1)),
        ({"M": 3, "N": 37}, {"M": 2, "N": 5000}),
    ),
    "swapped": Case(
        TREE,
        lambda b, x, y: b.ew.add(x, b.view.transpose(y, perm=(1, 0))),
        (t("f32", "M", "N"), t("f32", "N", "M")),
        ({"M": 3, "N": 37}, {"M": 70, "N": 130}),
    ),
    "to_channels_last": Case(
        TREE,
        lambda b, x, y: b.ew.mul(b.view.transpose(x, perm=(0, 2, 3, 1)), y),
        (t("f32", "B", 20, 3, "W"), t("f32", 20)),
        ({"B": 1, "W": 1}, {"B": 2, "W": 41}),
    ),
    "from_three_channels": Case(
        TREE, lambda b, x: b.view.transpose(x, perm=(0, 2, 3, 1)), (t("f32", 2, 3, 5, "W"),), ({"W": 1}, {"W": 41})
    ),
    "two_crosswise": Case(
        TREE,
        lambda b, x, y: b.view.transpose(b.ew.sub(b.ew.sub(x, 1), y), perm=(1, 0)),
        (t("i32", "M", 75), t("i32", "M", 75)),
        ({"M": 1}, {"M": 130}),
    ),
    "scalars": Case(TREE, lambda b, x, y: b.ew.add(x, y), (t("f32"), t("f32", 1))),
    "gelu": Case(TREE, lambda b, x: b.ew.gelu(x), (t("f32", "M", 45),), ({"M": 1}, {"M": 93})),
    "joined_heads": Case(
        TREE,
        joined_heads,
        (t("f32", "B", 3, "S", 8), t("f32", "B", "S", 1)),
        ({"B": 1, "S": 1}, {"B": 2, "S": 41}),
    ),
    "back_and_forth": Case(
        TREE, back_and_forth, (t("f32", "B", 1, "S", 20), t("f32", "B", "S", 20)), ({"B": 2, "S": 13},)
    ),
    "broadcast_inside": Case(TREE, broadcast_inside, (t("f32", 5, "S"), t("f32", 5)), ({"S": 1}, {"S": 29})),
    "rotated": Case(TREE, rotated, (t("f32", "M", 30), t("f32", 15)), ({"M": 4},)),
    "picked": Case(TREE, picked, (t("f32", "M", 3), t("f32", 3)), ({"M": 50},)),
    "positions": Case(TREE, positions, (t("i64", "S"), t("i64", "T")), ({"S": 7, "T": 90},)),
    "halves": Case(
        TREE,
        halves,
        (t("f16", "M", 40), t("bf16", 40)),
        ({"M": 9},),
        tolerance=1e-3,
    ),
    "doubles": Case(
        TREE, lambda b, x, y: b.ew.mul(b.ew.tanh(x), y), (t("f64", "M", 7), t("f64", 7)), ({"M": 9},), tolerance=1e-14
    ),
    "short_integers": Case(
        TREE, lambda b, x, y: b.ew.sub(b.ew.mul(x, x), y), (t("i16", "M", 7), t("i16", "M", 1)), ({"M": 90},)
    ),
    "bytes": Case(TREE, lambda b, x, y: b.ew.max(x, y), (t("u8", "M", 70), t("u8", "M", 70)), ({"M": 3},)),
    "spread": Case(
        TREE, lambda b, x: b.view.expand(x, shape=("M", 5, 71)), (t("bool", "M", 1, 1),), ({"M": 1}, {"M": 6})
    ),
    "slice_of_positions": Case(
        TREE,
        lambda b, x: b.view.slice(x, axis=0, stop=Dim.of("S")),
        (t("f32", 100, 12),),
        ({"S": 1}, {"S": 33}),
        weights=(0,),
    ),
}
LIBRARY = library_of(CASES)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", CASES)
def test_trees(name: str, case: str) -> None:
    check(CASES[case], LIBRARY(name).kernels[case], RNG)


@pytest.mark.parametrize("case", CASES)
def test_levels_agree(case: str) -> None:
    same_on_all_levels(CASES[case], levels())


def test_shares_only_what_is_read_where_it_is_replaced() -> None:
    square = t("f32", 9, 9)
    group = make_group(lambda b, x, y: b.ew.add(b.ew.add(x, y), b.view.transpose(y, perm=(1, 0))), square, square)
    built = all_kernels()[TREE].build(group, levels()[0])
    assert built.inplace == (0,)


def test_joins_axes_that_all_operands_run_through_alike() -> None:
    """The pixels of an image are one loop: a tile has 170 of the 5 * H."""
    built = all_kernels()[TREE].build(CASES["channels"].group, levels()[0])
    assert str(built.tiles) == "2*((H + 33)//34)"


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda b, x: b.reduce.sum(x, axes=(1,)), "it has several heavy nodes"),
        (lambda b, x: b.view.reshape(b.view.slice(b.ew.neg(x), axis=1, stop=5), shape=(5, 6)), None),
    ],
)
def test_refusals(build: Any, reason: str | None) -> None:
    group = make_group(build, t("f32", 6, 8))
    answer = all_kernels()[TREE].accepts(group)
    assert answer == reason if reason else answer is not None
