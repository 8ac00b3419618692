"""A model compiled with another attention: the library computes it, and everybody is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.api import lower
from nomul.cli import main
from nomul.ir import interpreter
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module
from nomul.nir import write_nir
from nomul.passes.exchange import all_forms
from nomul.runtime.trailer import read_facts

TEXT = """\
nomul.ir 1
dim S in [1, 64]
weight @w : f32[32, 32]
func @main(%x: f32[1, S, 32]) -> (y: f32[1, S, 32]) {
  %h = view.reshape %x {shape=[1, S, 4, 8]} : f32[1, S, 4, 8]
  %a = nn.attention %h, %h, %h {scale=0.3} : f32[1, S, 4, 8] loc("block.0.attention:sdpa")
  %b = nn.attention %a, %h, %a {scale=0.5} : f32[1, S, 4, 8] loc("block.1.attention:sdpa")
  %c = view.reshape %b {shape=[1, S, 32]} : f32[1, S, 32]
  %y = nn.linear %c, @w : f32[1, S, 32] loc("last")
  return %y
}
"""
RECIPE = """
[[attention]]
match = "block.0.*"
form = "linear"
map = "elu"

[[attention]]
form = "window"
window = 6
"""
RANDOM = np.random.default_rng(6)


@pytest.fixture(scope="module")
def model() -> Module:
    module = parse_module(TEXT)
    module.weights["w"].fields = Weight.dense("w", RANDOM.standard_normal((32, 32)).astype(np.float32)).fields
    return module


def test_the_report_the_summary_and_the_facts_tell_it(
    model: Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nir(model, tmp_path / "model.nir")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    x = RANDOM.standard_normal((1, 30, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    out, page, data = (tmp_path / name for name in ("model.so", "r.html", "r.json"))
    options = ["--recipe", str(tmp_path / "recipe.toml"), "--calib", str(tmp_path / "data.npz")]
    reports = ["--report", str(page), "--report", str(data)]
    assert main(["compile", str(tmp_path / "model.nir"), "-o", str(out), *options, *reports]) == 0
    told = capsys.readouterr().out
    forms = {"block.0.attention": "linear<map=elu>", "block.1.attention": "window<window=6>"}
    for layer, form in forms.items():
        assert f"{layer}: softmax attention is {form} now" in told and layer in page.read_text()
    for command in (["show", str(out)], ["verify", str(tmp_path / "model.nir"), str(out), "--samples", "1"]):
        assert main(command) == (command[0] == "verify")
        told = capsys.readouterr().out
        assert "block.0.attention: softmax attention is linear<map=elu> now" in told
        assert ("A recipe has changed the model: --tolerance says" in told) == (command[0] == "verify")
    assert {fact["name"]: fact["form"] for fact in read_facts(out, verify=False)["exchanged"]} == forms
    found = json.loads(data.read_text())
    exchanged = lower(model, until="exchange", recipe=tmp_path / "recipe.toml")
    plain, given = interpreter.run(model, x)[0], interpreter.run(exchanged, x)[0]
    error = 10 * np.log10(np.square(plain).sum() / np.square(plain - given).sum())
    (output,) = found["attention_outputs"]
    assert output["sqnr_db"] == pytest.approx(error, abs=1e-2)
    assert [fact["name"] for fact in found["attention"]] == list(forms)
    assert all(fact["outputs"]["sqnr_db"] < 60 and fact["sensitivity"] < 60 for fact in found["attention"])
    np.testing.assert_allclose(nomul.load(out)(x)[0], given, atol=1e-4)


FORMS = {
    "linear": {"map": "exp"},
    "window": {"window": 5},
    "sla": {"critical": 0.3, "block": 8},
    "inline": {},
    "hamming": {},
    "softmax": {"scores": "i8"},
}


def test_every_form_is_compiled() -> None:
    assert set(FORMS) == set(all_forms())


@pytest.mark.parametrize("form", FORMS)
def test_libraries_compute_every_form(model: Module, form: str) -> None:
    recipe = {"attention": [{"form": form, **FORMS[form]}]}
    data = [[RANDOM.standard_normal((1, 40, 32)).astype(np.float32)] for _ in range(2)]
    artifact = nomul.compile(model, recipe=recipe, calib=data)
    exchanged = lower(model, until="exchange", recipe=recipe, calib=data)
    for count in (1, 9, 64):
        x = RANDOM.standard_normal((1, count, 32)).astype(np.float32)
        np.testing.assert_allclose(artifact(x)[0], interpreter.run(exchanged, x)[0], atol=1e-3)


def test_a_recipe_refuses_what_goes_too_far(model: Module) -> None:
    with pytest.raises(nomul.ir.errors.NomulError, match=r"NM461.*exchange_attention"):
        lower(model, recipe={"attention": [{"form": "hamming"}], "max_error": 0.01}, check=True)
