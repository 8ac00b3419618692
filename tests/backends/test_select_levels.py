"""Levels on one base share the code of kernels that look at none of their features: selection, plan, library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.backends import select
from nomul.backends.build import kernel_symbols, lower_levels
from nomul.backends.driver_steps import kernel_tables
from nomul.backends.group import Group
from nomul.backends.plan import Level
from nomul.backends.registry import Built, Kernel, all_kernels
from nomul.backends.select import Choice, Selection, choose, code_level
from nomul.backends.target import Target, find_target
from nomul.ir.dim import Dim
from nomul.ir.parser import parse_module
from nomul.ir.types import DType, Tensor
from tests.kernel_harness import make_group
from tests.toy_artifact import kernel_object, toy_plan

FAMILY = find_target("x86_64-linux")
ALL = [target.level for target in FAMILY]
MODEL = "nomul.ir 1\nfunc @main(%x: f32[4, 8]) -> (f32[4, 8]) {\n  %y = ew.exp %x : f32[4, 8]\n  return %y\n}\n"


def row_group() -> Group:
    return make_group(lambda b, x: b.ew.exp(x), Tensor(DType.F32, (Dim.of(4), Dim.of(8))))


class Spy:
    """An element-wise kernel that notes the levels which it is built for."""

    def __init__(self, needs: Sequence[str] = (), uses: Sequence[str] = ()) -> None:
        self.plain = all_kernels()["ew/f32/tree"]
        self.levels: list[str] = []
        self.kernel = replace(
            self.plain, name="spy", rank=99, needs=frozenset(needs), uses=frozenset(uses), build=self.build
        )

    def build(self, group: Group, target: Target) -> Built:
        self.levels.append(target.level)
        return self.plain.build(group, target)


def chosen(monkeypatch: pytest.MonkeyPatch, spy: Spy, levels: Sequence[Target] = FAMILY) -> Choice:
    kernels: dict[str, Kernel] = all_kernels() | {"spy": spy.kernel}
    monkeypatch.setattr(select, "all_kernels", lambda: kernels)
    return choose(row_group(), levels)


@pytest.mark.parametrize(
    ("uses", "code"),
    [
        ((), ["v4", "v4", "v4", "v4", "v3", "v3", "v2"]),
        (("avx512vnni",), ["v4_vnni", "v4_vnni", "v4_vnni", "v4", "v3", "v3", "v2"]),
        (("avx512vbmi",), ["v4_vbmi", "v4_vbmi", "v4", "v4", "v3", "v3", "v2"]),
        (("avx512vnni", "avx512vbmi", "avxvnni"), ["v4_vbmi", "v4_vbmi", "v4_vnni", "v4", "v3_vnni", "v3", "v2"]),
        (("avx512bf16",), ["v4_bf16", "v4", "v4", "v4", "v3", "v3", "v2"]),
        (("avx2",), ["v4", "v4", "v4", "v4", "v3", "v3", "v2"]),
    ],
)
def test_code_is_made_for_the_lowest_level_that_looks_the_same(
    monkeypatch: pytest.MonkeyPatch, uses: tuple[str, ...], code: list[str]
) -> None:
    spy = Spy(uses=uses)
    choice = chosen(monkeypatch, spy)
    assert [target.level for target in choice.code] == code
    assert spy.levels == list(dict.fromkeys(code)) == list(choice.code_levels)
    assert {kernel.name for kernel in choice.kernels} == {"spy"}


def test_what_a_kernel_needs_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, Spy(needs=("avx512vnni",)))
    assert [kernel.name == "spy" for kernel in choice.kernels] == [True, True, True, False, False, False, False]
    assert choice.code_levels == ("v4_vnni", "v4", "v3", "v2")
    reasons = [reason for name, reason in choice.rejected if name == "spy"]
    assert reasons == ["v4, v3_vnni, v3, v2: needs avx512vnni"]


def test_a_level_shares_only_with_levels_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    best, lowest = FAMILY[0], FAMILY[-1]
    choice = chosen(monkeypatch, Spy(), (best, lowest))
    assert [target.level for target in choice.code] == ["v4_bf16", "v2"]
    (half,) = find_target("x86_64-linux+avx512fp16")
    assert code_level(choice.kernels[0], best, (best, half)) is best  # neither has all of the other


def test_levels_without_a_base_share_nothing() -> None:
    arm = find_target("aarch64-linux")
    assert [target.level for target in choose(row_group(), arm).code] == ["i8mm", "dotprod", "neon"]


def test_objects_hold_only_code_of_their_level(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = chosen(monkeypatch, Spy(uses=("avx512vnni",)))
    selection = Selection(FAMILY, {"g": choice})
    (symbol,) = kernel_symbols(selection).values()
    shown: list[tuple[str, str]] = []
    made = lower_levels(selection, kernel_symbols(selection), lambda name, kind, text: shown.append((name, kind)))
    assert {level.name: level.owner(symbol) for level in made} == dict(
        zip(ALL, ["v4_vnni", "v4_vnni", "v4_vnni", "v4", "v3", "v3", "v2"], strict=True)
    )
    assert [bool(level.object) for level in made] == [False, False, True, True, False, True, True]
    assert all(f"{symbol}__{level.name}".encode() in level.object for level in made if level.object)
    assert (f"{symbol}__v4_vnni", "s") in shown and (f"{symbol}__v4", "s") not in shown
    assert (f"{symbol}__v4", "ll") in shown


def test_levels_with_the_same_kernels_have_one_table() -> None:
    low, high = Level("low", (), kernel_object("low", 1)), Level("high", ("avx2",), kernel_object("high", 2))
    symbols = [step.symbol for step in toy_plan().steps]
    mixed = replace(high, borrowed={symbols[0]: "low"})
    same = Level("same", ("avx2", "fma"), b"", dict.fromkeys(symbols, "low"))
    assert kernel_tables(toy_plan(levels=(mixed, same, low))) == {"high": "high", "same": "low", "low": "low"}


@pytest.mark.skipif("v4_vnni" not in [t.level for t in find_target("host")], reason="this CPU has no AVX-512 VNNI")
def test_every_level_of_the_library_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernels = all_kernels() | {"spy": Spy(uses=("avx512vnni",)).kernel}
    monkeypatch.setattr(select, "all_kernels", lambda: kernels)
    artifact = nomul.compile(parse_module(MODEL), target="x86_64-linux", output=tmp_path / "m.so", dump=tmp_path / "d")
    x = np.linspace(-2, 2, 32, dtype=np.float32).reshape(4, 8)
    assert list(artifact.levels) == ALL and artifact.level in ("v4_bf16", "v4_vbmi", "v4_vnni")
    for level in find_target("host"):
        artifact.force_level(level.level)
        np.testing.assert_allclose(artifact(x)[0], np.exp(x), rtol=1e-6)
    (kernel,) = artifact.facts["kernels"]
    assert kernel["code"] == ["v4_vnni", "v4", "v3", "v2"]
    assert "code for v4_vnni, v4, v3, v2" in (tmp_path / "d" / "kernels.txt").read_text()
    text = (tmp_path / "d" / "model.c").read_text()
    assert text.count("static const kernel_table kernels_") == 4
    assert (
        "&kernels_v4_vnni,\n  &kernels_v4_vnni,\n  &kernels_v4_vnni,\n  &kernels_v4,\n  &kernels_v3,\n  &kernels_v3,\n"
        in text
    )
