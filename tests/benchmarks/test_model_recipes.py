"""The benchmark of models with recipes compares all systems on one model, in one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples")]

import limits  # noqa: E402 - these stand in benchmarks/
import model_recipes  # noqa: E402
import models  # noqa: E402
import results  # noqa: E402

RECIPES = ["int8", "ternary2"]


def _onnx(path: Path) -> Path:
    """x [B, 128] -> 128 -> 16."""
    generator = np.random.default_rng(0)
    arrays = {"first": generator.standard_normal((128, 128)), "last": generator.standard_normal((128, 16))}
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], "inner"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "last"], ["y"], "head"),
    ]
    ports = [[helper.make_tensor_value_info(name, 1, ["B", size])] for name, size in (("x", 128), ("y", 16))]
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "small", *ports, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("recipes")
    path = _onnx(folder / "small.onnx")
    entry = models.Entry("small", lambda: models.Subject(path, lambda _: path), {"B": (1, 8)}, ({"B": 1}, {"B": 5}))
    fixed = limits.Limits(1, gflops=100, read_gbs=30, int8_gops=400, lookup_gbs=0, lookup2_gbs=0)

    def run(entry: models.Entry) -> Any:
        return model_recipes.run_entry(entry, RECIPES, [1], 0.01, folder / "encoded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "measure", lambda threads: fixed)
        measured = models.measure_all([entry], run, model_recipes.line, [1])
    kept = sorted(path.name for path in (folder / "encoded").glob("*.nir"))
    assert kept == ["small-f32.nir", "small-int8.nir", "small-ternary2.nir"]
    return measured


def test_a_row_for_each_system_and_size(result: Any) -> None:
    systems = ["nomul f32", "nomul int8", "nomul ternary2", model_recipes.FLOATS, model_recipes.EIGHT_BITS]
    assert [(row["system"], row["dims"]["B"]) for row in result["rows"]] == [(s, b) for b in (1, 5) for s in systems]
    rows = {row["system"]: row for row in result["rows"][:5]}
    for row in rows.values():
        assert row["times_f32"] == pytest.approx(rows[model_recipes.FLOATS]["ms"] / row["ms"], rel=0.05, abs=0.01)


def test_accuracy_falls_with_bits(result: Any) -> None:
    found = {row["system"]: row[model_recipes.COSINE] for row in result["rows"]}
    assert found[model_recipes.FLOATS] == 1 and found["nomul f32"] == pytest.approx(1, abs=1e-6)
    assert 1 > found["nomul int8"] > 0.999 > found["nomul ternary2"] > 0.9
    assert 1 > found[model_recipes.EIGHT_BITS] > 0.99


def test_tables(result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{model_recipes.START}\nold\n{model_recipes.END}\nafter\n")
    monkeypatch.setattr(model_recipes, "PAGE", page)
    model_recipes.update_docs(result)
    text = page.read_text()
    assert "old" not in text and text.count("| small |") == 10
    assert "limits before, 1 threads: 100 GFLOPS, 400 int8 GOPS, 30.0 GB/s read" in text


def test_without_recipes_models_are_compared_in_floats() -> None:
    assert models.arguments_of([]).recipes is None
    assert models.arguments_of(["--recipes"]).recipes.split(",") == list(model_recipes.RECIPES)
    page = results.PAGE.read_text(encoding="utf-8")
    assert model_recipes.START in page and model_recipes.END in page
