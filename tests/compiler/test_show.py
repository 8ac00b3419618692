"""`nomul show`: graph, weights with their numbers, and who lives in which arena slot when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pass_graphs import Graph, built

from nomul.cli import main
from nomul.ir.graph import Value
from nomul.ir.text import print_module
from nomul.nir import write_nir
from nomul.options import Options
from nomul.pipeline import lower_to_plan


def layers(g: Graph) -> Value:
    half = np.where(np.arange(64).reshape(8, 8) % 2, 0.5, 0.0).astype(np.float32)
    x = g.b.ew.relu(g.b.nn.linear(g.input("x", "S", 8), g.array("half", half), name="first"))
    return g.b.nn.softmax(g.b.nn.linear(x, g.weight("other", 4, 8), name="second"), axis=1)


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["show", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_weights_with_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nir(built(layers), tmp_path / "m.nir")
    lines = shown(capsys, tmp_path / "m.nir", "--weights").splitlines()
    (line,) = [line for line in lines if line.rstrip().endswith("half")]
    assert line.split() == ["256", "B", "f32[8,", "8]", "dense", "0", "0.5", "50.0%", "half"]
    facts = json.loads(shown(capsys, tmp_path / "m.nir", "--json"))
    assert [weight["zeros"] for weight in facts["weights_table"]] == [0.5, 0.0]


def test_the_graph_is_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = built(layers)
    module.main.result_names = ("probabilities",)
    write_nir(module, tmp_path / "m.nir")
    assert shown(capsys, tmp_path / "m.nir", "--graph") == print_module(module)


def test_a_memory_map_of_level_exec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compiled = lower_to_plan(built(layers), Options(targets=("host",), dump=tmp_path / "dump"))
    (path,) = (tmp_path / "dump").glob("*.plan_memory.nir")
    lines = shown(capsys, path, "--memory").splitlines()
    header = next(number for number, line in enumerate(lines) if line.split()[:1] == ["slot"])
    rows = [line.split() for line in lines[header + 1 :]]
    runs = [node for node in compiled.module.main.nodes if node.op == "exec.run"]
    assert len(rows) == len(runs)
    assert rows[-1][0] == "output" and rows[0][0] == "0"
    first = [int(row[1]) for row in rows]
    assert first == sorted(first) and all(int(row[1]) <= int(row[2]) for row in rows)
