"""Rows of encoded tables against the interpreter on every level: vectors of `int8` and `int4`, and what has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import nomul
from nomul.backends.kernels.gather import refusal
from nomul.backends.registry import all_kernels
from nomul.backends.select import candidates
from nomul.ir import interpreter
from nomul.ir.dim import Dim
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import DType, Tensor
from tests.ir.encodings.test_low_bit import EXAMPLES
from tests.kernel_harness import close, compile_kernels, every_level, level, level_names, levels, make_group, reference
from tests.plain_kernels import Case, check, library_of, same_on_all_levels

RNG = np.random.default_rng(11)
IDS = Tensor.of("i64", "B", "S")
SIZES = ({"B": 2, "S": 1}, {"B": 3, "S": 70})


def table(encoding: str, *shape: int) -> Tensor:
    return Tensor(DType.F32, tuple(map(Dim.of, shape)), parse_encoding(encoding))


def rows(b: Any, x: Any, ids: Any) -> Any:
    return b.index.gather(x, ids)


def with_others(b: Any, x: Any, ids: Any, positions: Any, types: Any) -> Any:
    return b.ew.add(b.ew.add(b.index.gather(x, b.ew.sub(ids, 2)), positions), types)


def crosswise(b: Any, x: Any, ids: Any) -> Any:
    return b.view.transpose(b.index.gather(x, ids), perm=(2, 0, 1))


def heads(b: Any, x: Any, ids: Any) -> Any:
    return b.view.reshape(b.index.gather(x, ids), shape=("B", "S", 4, 16))


def part(b: Any, x: Any, ids: Any) -> Any:
    return b.view.slice(b.index.gather(x, ids), axis=2, start=16, stop=40)


def case(encoding: str, columns: int, build: Callable[..., Any] = rows, *others: Tensor) -> Case:
    encoded = table(encoding, 9, columns)
    return Case(f"index.gather/{encoded.encoding.name}/rows", build, (encoded, IDS, *others), SIZES, (0,))


CASES = {
    "bytes": case("int8", 45),
    "bytes_with_others": case("int8", 45, with_others, Tensor.of("f32", "S", 45), Tensor.of("f32", 45)),
    "bytes_in_groups": case("int8<group=16, zero=1, scales=f32>", 48),
    "one_column": case("int8", 1),
    "nibbles": case("int4", 45),
    "nibbles_with_zeros": case("int4<zero=1, scales=bf16>", 64),
    "nibbles_in_groups": case(
        "int4<group=32, zero=1>", 96, with_others, Tensor.of("f32", "S", 96), Tensor.of("f32", 96)
    ),
    "crosswise": case("int4<group=16>", 32, crosswise),
    "heads": case("int4", 64, heads),
    "part": case("int4<group=16>", 64, part),
    "several_axes": Case(
        "index.gather/int8/rows", rows, (table("int8", 5, 3, 7), Tensor.of("i32", "S")), ({"S": 1}, {"S": 40}), (0,)
    ),
}
PANELS = {
    f"{name}_in_panels": replace(CASES[name], kernel=CASES[name].kernel.replace("/rows", "/panel_rows"))
    for name in ("nibbles_in_groups", "bytes_in_groups", "heads", "crosswise", "part")
}
PANELS["bytes_in_panels"] = replace(
    case("int8", 64), kernel="index.gather/int8/panel_rows", types=(table("int8", 200, 64), IDS)
)
PANELS["nibbles_in_panels"] = replace(
    case("int4<zero=1>", 52), kernel="index.gather/int4/panel_rows", types=(table("int4<zero=1>", 130, 52), IDS)
)
CASES |= PANELS
LIBRARY = library_of(CASES)


@pytest.mark.parametrize("name", every_level())
@pytest.mark.parametrize("case", CASES)
def test_rows(name: str, case: str) -> None:
    check(CASES[case], LIBRARY(name).kernels[case], RNG)


@pytest.mark.parametrize("case", CASES)
def test_levels_agree(case: str) -> None:
    same_on_all_levels(CASES[case], levels())


def test_rows_are_those_of_unpack() -> None:
    kernel = LIBRARY(level_names()[0]).kernels["nibbles"]
    encoding, array = parse_encoding("int4"), RNG.standard_normal((9, 45)).astype(np.float32)
    ids = np.array([[8, -1, 0, 70, -70]])
    (got,) = kernel(array, ids, dims={"B": 1, "S": 5})
    dense = encoding.unpack(encoding.pack(array), array.shape)
    np.testing.assert_array_equal(got[0], dense[[8, 8, 0, 8, 0]])


@pytest.mark.parametrize(
    ("encoding", "columns", "build", "words"),
    [
        ("int4<group=8>", 32, rows, "groups are no multiples of 16 columns"),
        (
            "int4",
            64,
            lambda b, x, ids: b.view.slice(rows(b, x, ids), axis=2, start=3, stop=40),
            "begin at other columns",
        ),
        ("int8", 9, lambda b, x, ids: b.index.gather(x, ids, axis=1), "not gathered along its rows"),
    ],
)
def test_what_has_no_vectors(encoding: str, columns: int, build: Callable[..., Any], words: str) -> None:
    group = make_group(build, table(encoding, 9, columns), IDS, weights=(0,))
    assert words in (refusal(group) or "")
    assert candidates(group)[-1].name == "any/f32/generic"


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_encoding_has_rows(text: str) -> None:
    """By the generic kernel at least; in portable C and elsewhere there is no other."""
    encoding = parse_encoding(text)
    array = RNG.standard_normal((6, 192)).astype(np.float32)
    group = make_group(rows, Tensor(DType.F32, (Dim.of(6), Dim.of(192)), encoding), IDS, weights=(0,))
    (kernel,) = compile_kernels(all_kernels()["any/f32/generic"], [group], level(level_names()[-1]))
    ids = RNG.integers(-6, 6, (2, 3))
    close(kernel(array, ids)[0], reference(group, [array, ids])[0], 1e-6)


def tied(encoding: str, act: str) -> Module:
    text = f"""\
nomul.ir 1
dim S in [1, 64]
weight @table : f32[200, 64] as {encoding}
weight @w : f32[64, 64] as {encoding}
func @main(%ids: i64[S]) -> (f32[S, 200]) {{
  %x = index.gather @table, %ids : f32[S, 64]
  %h = nn.linear %x, @w {{act="{act}"}} : f32[S, 64]
  %y = nn.linear %h, @table {{act="{act}"}} : f32[S, 200]
  return %y
}}
"""
    module = parse_module(text)
    for weight in module.weights.values():
        array = RNG.standard_normal([int(size) for size in weight.shape]).astype(np.float32)
        weight.fields = parse_encoding(encoding).pack(array)
    return module


@pytest.mark.parametrize("act", ["i8", "f32"])
@pytest.mark.parametrize("encoding", ["int8", "int4<group=32>"])
def test_a_table_that_is_the_head_is_stored_once(encoding: str, act: str) -> None:
    module = tied(encoding, act)
    artifact, ids = nomul.compile(module), np.array([0, 199, 64, 63, -1])
    close(np.asarray(artifact(ids)[0]), interpreter.run(module, ids)[0], 1e-5)
    stored = sum(field.nbytes for weight in module.weights.values() for field in weight.fields.values())
    padded = 256 / 200  # panels have 64 rows
    assert artifact.facts["weights"]["bytes"] < stored * padded + 1024
    assert any("panel_rows" in name for kernel in artifact.facts["kernels"] for name in kernel["kernels"].values())
