"""Calibration data: the forms that it has, and what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pass_graphs import Graph

import nomul
from nomul.calibration import read_calibration
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module


def one_input() -> Module:
    g = Graph({"B": (1, 64)})
    return g.module(g.b.nn.linear(g.input("x", "B", 8), g.weight("w", 4, 8)))


def two_inputs() -> Module:
    g = Graph({"S": (1, 64)})
    table = g.b.index.gather(g.weight("table", 9, 8), g.input("ids", "S", dtype="i64"))
    return g.module(g.b.ew.mul(table, g.input("mask", "S", 1)))


X = np.arange(40, dtype=np.float32).reshape(5, 8)


def flat(batches: list[Any]) -> list[np.ndarray]:
    return [array for batch in batches for array in batch]


def test_an_npz_holds_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=X)
    (batch,) = read_calibration(tmp_path / "data.npz", one_input())
    assert np.array_equal(batch[0], X)


def test_one_axis_more_counts_batches(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", ids=np.ones((3, 7), np.int32), mask=np.ones((3, 7, 1)))
    batches = read_calibration(tmp_path / "data.npz", two_inputs())
    assert [[array.shape for array in batch] for batch in batches] == [[(7,), (7, 1)]] * 3
    assert [array.dtype for array in batches[0]] == [np.int64, np.float32]


def test_a_folder_has_files_by_name_and_number(tmp_path: Path) -> None:
    for number in (2, 1):
        np.save(tmp_path / f"ids.{number}.npy", np.full(number, number))
        np.save(tmp_path / f"mask.{number}.npy", np.ones((number, 1), np.float32))
    batches = read_calibration(tmp_path, two_inputs())
    assert [len(batch[0]) for batch in batches] == [1, 2]


def test_one_input_takes_files_of_any_name(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", X)
    np.save(tmp_path / "a.npy", X + 1)
    assert [float(array[0, 0]) for array in flat(read_calibration(tmp_path, one_input()))] == [1.0, 0.0]


@pytest.mark.parametrize("given", [[X, X], iter([X, (X,)]), [{"x": X}, [X]], {"x": np.stack([X, X])}])
def test_iterables(given: Any) -> None:
    assert [array.tolist() for array in flat(read_calibration(given, one_input()))] == [X.tolist()] * 2


def test_a_large_batch_is_cut() -> None:
    batches = read_calibration([np.zeros((40, 8), np.float32)], one_input())
    assert [len(array) for array in flat(batches)] == [16, 16, 8]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "is empty"),
        (7, "a int is no calibration data"),
        ([{"y": X}], "no input x; unknown input y"),
        ([(X, X)], "2 arrays, but the model 1 inputs"),
        ([X[:, :5]], "has shape [5, 5], but must be f32[B, 8]"),
        ([X[0]], "an input is float32[8]"),
        ([np.full((2, 8), "a")], "input x is <U1, but must be f32"),
        ([np.full((2, 8), np.nan)], "not finite"),
    ],
)
def test_what_does_not_fit(given: Any, words: str) -> None:
    with pytest.raises(NomulError) as caught:
        read_calibration(given, one_input())
    assert {problem.code for problem in caught.value.problems} == {"NM017"}
    assert words in str(caught.value)


def test_every_wrong_batch_is_named() -> None:
    with pytest.raises(NomulError) as caught:
        read_calibration([X, X[:, :5], X, X[0]], one_input())
    assert [problem.message.partition(":")[0] for problem in caught.value.problems] == [
        "calibration batch 1",
        "calibration batch 3",
    ]


def test_floats_are_no_indices() -> None:
    with pytest.raises(NomulError, match="input ids is float64, but must be i64"):
        read_calibration([(np.ones(3), np.ones((3, 1)))], two_inputs())


def test_files_of_no_input(tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", X)
    with pytest.raises(NomulError, match="belongs to no input"):
        read_calibration(tmp_path, two_inputs())


def test_a_compile_calibrates(tmp_path: Path) -> None:
    module = nomul.lower(one_input(), recipe="int4", calib=[X], until="encode")
    assert str(module.weights["w"].type.encoding) == "int4"
    rules = tmp_path / "static.toml"
    rules.write_text('[[layers]]\nweights = "int8"\nact = "i8-static"\n')
    with pytest.raises(NomulError, match="NM017"):
        nomul.lower(one_input(), recipe=rules)
    with pytest.raises(NomulError, match=r"NM017.: calibration data is for a recipe, and there is none"):
        nomul.lower(one_input(), calib=[X])
    nodes = nomul.lower(one_input(), recipe=rules, calib=[X], until="encode").main.nodes
    assert nodes[-1].attrs["act_scale"] == pytest.approx(39 / 127)
