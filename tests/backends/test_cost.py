"""Estimates choose between look-ups and dot products, and say so; measured times and ranks stand before them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nomul.backends import select
from nomul.backends.cost import estimate, mean, score, typical_rows
from nomul.backends.group import Group
from nomul.backends.registry import all_kernels
from nomul.backends.select import Choice, Preference, choose
from nomul.backends.target import find_target
from nomul.ir.dim import Dim, Range
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import Tensor
from tests.backends.test_encoded import type_of
from tests.kernel_harness import make_group

ALL, BEST = "x86_64-linux", "x86_64-linux+avx512vnni+avx512vbmi"
DOT, LOOK_UP = "nn.quantised_linear/ternary/bytes_product", "nn.quantised_linear/ternary/look_up"


def layer(text: str, rows: Range = (1, 512), levels: int = 127) -> Group:
    types = (Tensor.of("i8", "M", 384), Tensor.of("f32", "M"), type_of(parse_encoding(text), 1536, 384))
    return make_group(
        lambda b, *xs: b.nn.quantised_linear(*xs, levels=levels), *types, weights=(2,), ranges={"M": rows}
    )


def chosen(target: str, text: str, rows: Range = (1, 512), levels: int = 127) -> str:
    return choose(layer(text, rows, levels), find_target(target)).label.rpartition("/")[2]


@pytest.mark.parametrize("target", [ALL, BEST])
def test_bits_and_short_trits_are_looked_up(target: str) -> None:
    assert chosen(target, "bitplane<bits=2, group=128>") == "look_up"
    assert chosen(target, "bitplane<bits=2, group=128>", levels=25) == "look_up"
    assert chosen(target, "ternary<group=128>", levels=42) == "look_up"
    assert chosen(target, "ternary<group=128, pack=3of4>", (1, 1)) == "look_up"


@pytest.mark.parametrize("target", [ALL, BEST])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_tied_planes_are_multiplied(target: str, bits: int) -> None:
    assert chosen(target, f"bitplane<bits={bits}, group=128, tied=1>") == "bytes_product"


def test_all_levels_have_a_say() -> None:
    """Look-ups of words are slower on levels without VBMI, beside dot products, than on the best."""
    group = layer("ternary<planes=2, group=128>", (11, 11))

    def ratio(target: str) -> float:
        look_up, dot = (estimate(all_kernels()[name], group, find_target(target))[11] for name in (LOOK_UP, DOT))
        return look_up / dot

    assert ratio(BEST) < ratio(ALL) < ratio("x86-64-v3")


def test_numbers_of_rows_decide() -> None:
    """One row of look-ups takes longer than dot products, which wait for memory anyway."""
    assert chosen(BEST, "ternary<planes=2, group=32>", (1, 1), 42) == "bytes_product"
    assert chosen(BEST, "ternary<planes=2, group=32>", (64, 512), 42) == "look_up"


def test_what_is_behind_has_a_reason() -> None:
    choice: Choice = choose(layer("ternary<group=128>"), find_target(ALL))
    reason = dict(choice.rejected)[LOOK_UP]
    assert reason.startswith(f"estimated to take longer than {DOT}: ") and "times for 128 rows" in reason


def test_measured_times_stand_before_estimates() -> None:
    group, levels = layer("ternary<group=128>"), find_target(ALL)
    choice = choose(group, levels, Preference((LOOK_UP, DOT), ((DOT, "measured"),)))
    assert choice.label == LOOK_UP
    assert dict(choice.rejected)[DOT] == f"{levels[0].level}: measured"


def test_ranks_stand_before_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = all_kernels() | {LOOK_UP: replace(all_kernels()[LOOK_UP], rank=99)}
    monkeypatch.setattr(select, "all_kernels", lambda: kernels)
    assert chosen(ALL, "ternary<group=128>") == "look_up"


def test_estimates_grow_with_rows_and_weights() -> None:
    best = find_target(BEST)
    for name in (DOT, LOOK_UP):
        times = list(estimate(all_kernels()[name], layer("ternary<group=128>"), best).values())
        assert times == sorted(times) and len(set(times)) == 3
        double = layer("ternary<planes=2, group=128>")
        assert all(a < b for a, b in zip(times, estimate(all_kernels()[name], double, best).values(), strict=True))
    assert estimate(all_kernels()["any/f32/generic"], layer("ternary"), best) == {}


def test_typical_rows() -> None:
    rows = Dim.of("M")
    assert typical_rows(rows, {"M": (1, 4096)}) == (1, 11, 128)
    assert typical_rows(rows, {"M": (3, 3)}) == (3,)
    assert typical_rows(rows, {"M": (500, 900)}) == (500,)
    assert mean([(1, 1.0), (1, 4.0)]) == pytest.approx(2.0) and mean([(2, 2.0), (1, 16.0)]) == pytest.approx(4.0)
    assert score({1: 2.0, 11: 16.0, 128: 16.0}) == pytest.approx(2**2.5)
