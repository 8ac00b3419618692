"""The accuracy report of a compile, and what `nomul verify` prints of encoded layers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nomul
from nomul.accuracy.report import divergence, is_logits
from nomul.accuracy.svg import Point, bars, scatter
from nomul.api import lower
from nomul.cli import main
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module
from nomul.nir import write_nir
from nomul.passes.accuracy import EXACT, accuracy
from nomul.runtime.trailer import read_facts

TEXT = """\
nomul.ir 1
dim B in [1, 64]
weight @first : f32[32, 64]
weight @bias : f32[32]
weight @last : f32[10, 32]
func @main(%x: f32[B, 64]) -> (logits: f32[B, 10]) {
  %h = nn.linear %x, @first, @bias : f32[B, 32] loc("body.first")
  %r = ew.relu %h : f32[B, 32]
  %y = nn.linear %r, @last : f32[B, 10] loc("head")
  return %y
}
"""
RECIPE = {"first": "ternary<planes=2>", "last": "int8"}


@pytest.fixture(scope="module")
def model() -> Module:
    module = parse_module(TEXT)
    generator = np.random.default_rng(3)
    for weight in module.weights.values():
        shape = [int(size) for size in weight.shape]
        weight.fields = Weight.dense("w", generator.standard_normal(shape).astype(np.float32)).fields
    return module


@pytest.fixture(scope="module")
def compiled(model: Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder with model.nir, model.so, r.html; and the report as data."""
    folder = tmp_path_factory.mktemp("report")
    write_nir(model, folder / "model.nir")
    batch = np.random.default_rng(4).standard_normal((48, 64)).astype(np.float32)
    reports = [folder / "r.html", folder / "r.json"]
    nomul.compile(model, recipe=RECIPE, calib=[batch], output=folder / "model.so", report=reports)
    return folder, json.loads((folder / "r.json").read_text())


def test_weights_are_measured_as_they_are_stored(model: Module, compiled: tuple[Path, dict[str, Any]]) -> None:
    batch = np.random.default_rng(4).standard_normal((48, 64)).astype(np.float32)
    encoded = lower(model, until="encode", recipe=RECIPE, calib=[batch])
    layers = {layer["name"]: layer for layer in compiled[1]["layers"]}
    assert set(layers) == {"first", "last"}
    for name, layer in layers.items():
        before, after = model.weights[name].array(), encoded.weights[name].array()
        noise = np.square(before - after).sum() / np.square(before).sum()
        assert layer["weights"]["sqnr_db"] == pytest.approx(-10 * np.log10(noise), abs=1e-3)
        rows = np.linalg.norm(before - after, axis=1) / np.linalg.norm(before, axis=1)
        assert layer["weights"]["worst_channel"] == rows.argmax()
        assert layer["bytes"] == sum(array.nbytes for array in encoded.weights[name].fields.values())
        assert layer["bits"] == pytest.approx(8 * layer["bytes"] / before.size)
    assert layers["first"]["weights"]["sqnr_db"] < layers["last"]["weights"]["sqnr_db"]


def test_outputs_sensitivity_and_library(compiled: tuple[Path, dict[str, Any]]) -> None:
    data = compiled[1]
    first, last = data["layers"]
    assert 5 < first["outputs"]["sqnr_db"] < 40
    assert last["outputs"]["sqnr_db"] < last["sensitivity"]  # it inherits the error of the layer before it
    assert first["sensitivity"] < last["sensitivity"]
    (output,) = data["outputs"]
    assert output["name"] == "logits" and output["kl"] > 0
    (beside,) = data["library"]["outputs"]
    assert beside["relative"] < 1e-5


def test_operations_and_energy_are_told(compiled: tuple[Path, dict[str, Any]]) -> None:
    work = compiled[1]["work"]
    rows = work["dims"]["B"]
    first, last = work["layers"]
    assert (first["layer"], first["encoding"], first["act"]) == ("body.first", "ternary<planes=2>", "f32")
    assert (first["multiplies"], first["additions"]) == (0, rows * 2 * 32 * 64)
    assert last["multiplies"] == rows * 10 * 32 and last["dense_picojoules"] == round(rows * 10 * 32 * 4.6)
    page = (compiled[0] / "r.html").read_text()
    assert "uJ in a 45 nm chip" in page and f"At B={rows}" in page


RECIPE_FILE = """
correct_means = true

[[layers]]
match = "first"
weights = "nm<n=1, m=4, value=int8>"
transforms = ["permute", "rotate"]

[[layers]]
match = "last"
weights = "ternary<group=24>"
transforms = ["rotate", "fast_product"]
"""


def test_notes_reach_the_page_the_facts_and_the_summary(
    model: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nir(model, tmp_path / "model.nir")
    (tmp_path / "recipe.toml").write_text(RECIPE_FILE)
    np.save(tmp_path / "x.npy", np.random.default_rng(4).standard_normal((48, 64)).astype(np.float32))
    (tmp_path / "data").mkdir()
    (tmp_path / "x.npy").rename(tmp_path / "data" / "x.npy")
    out, report, data = tmp_path / "model.so", tmp_path / "r.html", tmp_path / "r.json"
    options = ["--recipe", str(tmp_path / "recipe.toml"), "--calib", str(tmp_path / "data"), "--check"]
    reports = ["--report", str(report), "--report", str(data)]
    assert main(["compile", str(tmp_path / "model.nir"), "-o", str(out), *options, *reports]) == 0
    shown, page = capsys.readouterr().out, report.read_text()
    notes = json.loads(data.read_text())["notes"]
    assert notes == read_facts(out, verify=False)["notes"] and len(notes) == 3
    for part in ("@first stays without permute: %x is an input", "@last stays without fast_product", "group=24"):
        assert part in shown and part in page
    assert "3 notes:" in shown


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(compiled: tuple[Path, dict[str, Any]]) -> None:
    text = (compiled[0] / "r.html").read_text()
    parser = _Tags()
    parser.feed(text)
    assert not parser.open
    assert text.count("<svg") == 2 and text.count("<circle") == 2 and text.count("<rect") == 2
    assert not re.search(r"https?:|src=|href=|<script", text)
    assert text.index("body.first") < text.index("(head)")  # worst first


def test_verify_prints_the_worst_layers_first(
    compiled: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = compiled[0]
    assert main(["verify", str(folder / "model.nir"), str(folder / "model.so"), "--samples", "1"]) == 1
    shown = capsys.readouterr().out
    table = shown[shown.index("worst first") :].splitlines()[2:4]
    assert [row.split()[-1] for row in table] == ["first", "last"]


def test_accuracy_of_arrays() -> None:
    x = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert accuracy(x, x).sqnr_db == EXACT and accuracy(x, x).cosine == 1.0
    found = accuracy(x, np.array([[3.0, 3.0], [0.0, 0.0]]))
    assert found.sqnr_db == pytest.approx(10 * np.log10(25)) and found.worst_error == pytest.approx(0.2)
    assert accuracy(np.zeros((2, 2)), np.ones((2, 2))).sqnr_db == -EXACT
    assert np.isfinite(accuracy(np.array([[np.nan, 1.0]]), np.array([[np.inf, 1.0]])).cosine)


def test_divergence_is_zero_for_shifted_logits_only() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 5.0, -5.0]])
    assert divergence(logits, logits + 7) == pytest.approx(0, abs=1e-12)
    assert divergence(logits, logits[:, ::-1]) > 0.1


def test_only_heads_give_logits(model: Module) -> None:
    assert is_logits(model, model.main.returns[0])
    module = parse_module(
        TEXT.replace("return %y", "%n = nn.rms_norm %y, @g : f32[B, 10]\n  return %n", 1).replace(
            "func", "weight @g : f32[10]\nfunc", 1
        )
    )
    assert not is_logits(module, module.main.returns[0])


def _wrong(folder: Path) -> Iterator[str | Path]:
    yield folder / "report.pdf"
    yield folder / "absent" / "report.html"


def test_wrong_places_are_refused_before_the_work(model: Module, tmp_path: Path) -> None:
    for path in _wrong(tmp_path):
        with pytest.raises(NomulError, match="NM028"):
            nomul.compile(model, output=tmp_path / "m.so", report=path)
    assert not (tmp_path / "m.so").exists()


def test_a_report_without_encoded_layers(model: Module, tmp_path: Path) -> None:
    nomul.compile(model, report=[tmp_path / "r.html", tmp_path / "r.json"])
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["layers"] == [] and data["outputs"][0]["sqnr_db"] == EXACT
    assert "encodes no layer" in (tmp_path / "r.html").read_text()


def test_plots_of_one_point_and_of_none() -> None:
    for plot in (
        scatter([], "x", "y"),
        bars([], "y"),
        scatter([Point(2, 2, "<a>")], "x", "y"),
        bars([Point(0, 2, "a")], "y"),
    ):
        assert plot.startswith("<svg") and "nan" not in plot and "<a>" not in plot
