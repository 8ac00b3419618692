"""The accuracy benchmark measures what an artifact computes, and its scores are what they are called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.compare import difference
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module
from nomul.passes import encode
from nomul.passes.fit import find_fitter
from nomul.recipe import read_recipe

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "benchmarks"), str(ROOT / "examples")]

import accuracy_table  # noqa: E402 - these stand in benchmarks/
from accuracy_methods import ENCODINGS, TRAINED, methods  # noqa: E402
from accuracy_store import Store  # noqa: E402

TRANSFORMED_BITS = [("rotate", "bitplane<bits=2, group=128>", 2.4), ("dictionary", "nm<n=2, m=8, value=int8>", 4.1)]

TEXT = """\
nomul.ir 1
dim B in [1, 16]
weight @first : f32[256, 128]
weight @bias : f32[256]
weight @second : f32[128, 256]
weight @last : f32[10, 128]
func @main(%x: f32[B, 128]) -> (f32[B, 10]) {
  %h = nn.linear %x, @first, @bias : f32[B, 256]
  %r = ew.relu %h : f32[B, 256]
  %s = nn.linear %r, @second : f32[B, 128]
  %t = ew.relu %s : f32[B, 128]
  %y = nn.linear %t, @last : f32[B, 10]
  return %y
}
"""


def _model() -> Module:
    module = parse_module(TEXT)
    generator = np.random.default_rng(0)
    for weight in module.weights.values():
        array = generator.standard_normal([int(size) for size in weight.shape])
        weight.fields = Weight.dense("w", array.astype(np.float32)).fields
    return module


@pytest.fixture(scope="module")
def store() -> Store:
    inputs = np.random.default_rng(1).standard_normal((4, 16, 128)).astype(np.float32)
    return Store(_model(), batches=[[batch] for batch in inputs])


@pytest.mark.parametrize(("transform", "encoding", "bits"), TRANSFORMED_BITS)
def test_transforms_come_before_the_encoding(store: Store, transform: str, encoding: str, bits: float) -> None:
    fitter = find_fitter(None, read_recipe({"*": encoding}).rules[0].encoding).name
    stored = store.transformed(encoding, fitter, True, transform)
    assert stored.layers == 2 and stored.error is None and stored.bits == pytest.approx(bits, abs=0.2)
    assert all(weight.type.encoding is None for weight in stored.module.weights.values())
    x = np.random.default_rng(2).standard_normal((8, 128)).astype(np.float32)
    plain, given = (store.compile(module)([x])[0] for module in (store.module, stored.module))
    assert 0.5 < np.vdot(plain, given) / (np.linalg.norm(plain) * np.linalg.norm(given)) < 0.99999


@pytest.mark.parametrize("calibrated", [False, True])
def test_unpacked_weights_are_those_of_the_artifact(store: Store, calibrated: bool) -> None:
    encoding = "ternary<planes=2, group=128>"
    stored = store.encoded({"weights": encoding}, calibrated)
    x = np.random.default_rng(2).standard_normal((5, 128)).astype(np.float32)
    recipe = {"last": "f32", "*": encoding}
    calib = [batch[0] for batch in store.batches] if calibrated else None
    artifact = nomul.compile(_model(), recipe=recipe, calib=calib)
    assert difference(artifact(x)[0], store.compile(stored.module)([x])[0]).relative < 1e-5
    assert stored.layers == 2 and stored.bits == pytest.approx(4 + 2 * 16 / 128)
    assert 0.01 < stored.error < 0.1


@pytest.mark.parametrize(("fitter", "blocks"), [("flexround", []), ("flexround by block", [2])])
def test_layers_learn_alone_or_in_blocks(
    store: Store, fitter: str, blocks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    (method,) = (row for row in methods() if row.fitter == fitter and row.weights == "int4<group=128>")
    learned: list[int] = []
    monkeypatch.setattr(encode, "learn_blocks", lambda found, *_: learned.append(len(found)))
    assert store.encoded(method.rule, method.calibrated).layers == 2
    assert learned == blocks


def test_kernels_are_made_once(store: Store) -> None:
    store.compile(store.plain().module)
    made = len(store._objects)
    store.compile(store.encoded({"weights": "int8"}, False).module)
    assert len(store._objects) == made


def test_other_quantisers_see_matrices(store: Store) -> None:
    seen = []

    def halve(matrix: np.ndarray) -> tuple[np.ndarray, float]:
        seen.append(matrix.shape)
        return matrix / 2, 7.0

    stored = store.quantised(halve)
    assert seen == [(256, 128), (128, 256)]
    assert stored.bits == 7 and stored.error == pytest.approx(0.25)


def test_methods_name_every_encoding_once_for_each_way() -> None:
    rows = list(methods())
    keys = [(row.label, row.fitter, row.calibrated) for row in rows]
    assert len(keys) == len(set(keys))
    assert set(ENCODINGS) <= {row.weights for row in rows} and set(TRAINED) <= set(ENCODINGS)


def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{accuracy_table.START}\nold\n{accuracy_table.END}\nafter\n")
    monkeypatch.setattr(accuracy_table, "PAGE", page)
    row = {"model": "m", "main": "right", "weights": "f32", "fitter": "", "calibrated": False, "bits": 32.0}
    rows = [row | {"error": 0.0, "scores": {"right": 80.0}}]
    rows.append(row | {"weights": "int8", "bits": 8.0, "error": 0.001, "scores": {"right": 40.0}})
    accuracy_table.update_docs(json.loads(json.dumps({"rows": rows, "skipped": {}})))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| int8 |  | none | 8.00 | 0.00100 | 40.00 | 50.0 % |" in text


def test_fitters_behind_round_to_nearest_are_named() -> None:
    row = {"model": "m", "main": "nats", "bits": 4.0, "error": 0.1, "weights": "int4", "calibrated": False}
    rows = [row | {"weights": "f32", "fitter": "", "scores": {"nats": 0.0}}]
    assert accuracy_table._worse(rows) == "No fitter stands beside round to nearest."
    rows.append(row | {"fitter": "round_to_nearest", "scores": {"nats": 0.3}})
    rows.append(row | {"fitter": "clip", "scores": {"nats": 0.4}})
    rows.append(row | {"fitter": "clip", "calibrated": True, "scores": {"nats": -0.2}})
    text = "Farther from fp32 than round to nearest (nats): calibrated none; without data `int4` by clip."
    assert accuracy_table._worse(rows) == text


def test_ranks_share_ties() -> None:
    from tasks.sentences import _ranks

    np.testing.assert_array_equal(_ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1, 3.5, 2])
