"""FlexRound by blocks: better outputs than layer by layer, the same again after an interrupt, bounds, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pass_graphs import Graph

import nomul
from nomul import with_torch
from nomul.api import lower
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value, Weight
from nomul.ir.interpreter import run
from nomul.passes import fit_blocks, learn_blocks
from nomul.passes.base import Report
from nomul.passes.encode import Encode
from nomul.passes.fit_layers import FitCache
from nomul.recipe import read_recipe

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from nomul.frontend.torch.blocks import TorchBlock  # noqa: E402 - needs torch

WIDTH, HEADS, TOKENS = 32, 4, 6


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def attention_branch(g: Graph, x: Value, name: str) -> Value:
    def linear(value: Value, part: str) -> Value:
        return g.b.nn.linear(value, scaled(g, f"{name}.{part}", WIDTH, WIDTH), scaled(g, f"{name}.{part}.b", WIDTH))

    heads = [g.b.view.reshape(linear(x, part), shape=("B", TOKENS, HEADS, WIDTH // HEADS)) for part in "qkv"]
    seen = g.b.nn.attention(*heads, scale=(WIDTH // HEADS) ** -0.5)
    return g.b.nn.layer_norm(g.b.ew.add(linear(g.b.view.reshape(seen, shape=("B", TOKENS, WIDTH)), "o"), x))


def feed_forward(g: Graph, x: Value, name: str) -> Value:
    hidden = g.b.ew.gelu(g.b.nn.linear(x, scaled(g, f"{name}.up", 2 * WIDTH, WIDTH), scaled(g, f"{name}.b", 2 * WIDTH)))
    return g.b.nn.layer_norm(g.b.ew.add(g.b.nn.linear(hidden, scaled(g, f"{name}.down", WIDTH, 2 * WIDTH)), x))


def scaled(g: Graph, name: str, *shape: int) -> Weight:
    weight = g.weight(name, *shape)
    weight.fields["data"] *= np.float32(shape[-1] ** -0.5)
    return weight


@cache
def transformer() -> Module:
    """One layer: four linear layers around attention, two with GELU between them."""
    g = Graph({"B": (1, 8)})
    return g.module(feed_forward(g, attention_branch(g, g.input("x", "B", TOKENS, WIDTH), "a"), "f"))


def images(count: int, seed: int = 0) -> list[list[np.ndarray]]:
    """Batches whose inputs are correlated."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5
    return [[generator.standard_normal((8, TOKENS, WIDTH)).astype(np.float32) @ mixing] for _ in range(count)]


def recipe(weights: str, scope: str) -> dict[str, Any]:
    return {"layers": [{"weights": weights, "fitter": "flexround", "scope": scope}]}


def encoded(weights: str, scope: str = "block", **options: Any) -> tuple[Module, Report]:
    module, report = transformer().clone(), Report()
    options = {"batches": images(32), "gradients": TorchBlock} | options
    Encode(read_recipe(recipe(weights, scope)), **options).run(module, report)
    return module, report


def lost(module: Module) -> float:
    """The error of the outputs, relative, on data that no fitter has seen."""
    pairs = [(run(transformer(), *batch)[0], run(module, *batch)[0]) for batch in images(3, seed=1)]
    return sum(float(((a - b) ** 2).sum()) for a, b in pairs) / sum(float((a**2).sum()) for a, _ in pairs)


def fields(module: Module) -> dict[str, np.ndarray]:
    return {f"{n}.{f}": array for n, weight in module.weights.items() for f, array in weight.fields.items()}


@pytest.mark.parametrize("weights", ["int4<group=16>", "bitplane<bits=2, group=16>", "ternary<planes=2, group=16>"])
def test_blocks_lose_less_than_layers(weights: str) -> None:
    by_block, by_layer = encoded(weights)[0], encoded(weights, "layer")[0]
    assert lost(by_block) < 0.97 * lost(by_layer)
    kept = [str(w.type.encoding) for w in by_block.weights.values() if w.type.encoding]
    assert len(kept) == 6 and len(set(kept)) == 1


def test_eight_bit_activations_learn_too() -> None:
    rules = {"layers": [{"weights": "ternary<planes=2, group=16>", "fitter": "flexround", "act": "i8"}]}
    found = []
    for scope in ("layer", "block"):
        rules["layers"][0]["scope"] = scope
        module = transformer().clone()
        Encode(read_recipe(rules), images(8), gradients=TorchBlock).run(module, Report())
        assert {node.attrs["act"] for node in module.main.nodes if node.op == "nn.linear"} == {"i8"}
        found.append(lost(module))
    assert found[1] < 0.97 * found[0]


def test_an_interrupt_loses_no_block(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(text: str, fraction: float) -> None:
        if text.startswith("learn block 2"):
            raise Stop

    folder, weights = tmp_path / "fits", "int4<group=16>"
    with pytest.raises(Stop):
        encoded(weights, cache=folder, progress=stop)
    seen: list[tuple[str, float]] = []
    resumed, _ = encoded(weights, cache=folder, progress=lambda *line: seen.append(line))
    first = [line for line in seen if line[0].startswith("learn block 1")]
    assert len(first) == 1 and not any(text.startswith("fit") for text, _ in seen)
    assert [share for _, share in seen] == sorted(share for _, share in seen) and seen[-1][1] == pytest.approx(1)
    fresh, _ = encoded(weights)
    for name, array in fields(fresh).items():
        np.testing.assert_array_equal(array, fields(resumed)[name], name)
    FitCache(folder).clear()
    assert not folder.exists()


def test_what_is_held_in_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, counts = images(8), []
    held = 2 * 2 * batches[0][0].nbytes  # of one batch: input and output of a block, in both models
    monkeypatch.setattr(fit_blocks, "MEMORY", 3 * held)
    learn = fit_blocks._learn
    monkeypatch.setattr(fit_blocks, "_learn", lambda *given: (counts.append(given[2]), learn(*given)))
    encoded("int4<group=16>", batches=batches)
    assert len(counts) == 2 and all(3 <= count < 8 for count in counts)


def test_blocks_that_cannot_learn_are_fitted_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    by_layer = fields(encoded("int4<group=16>", "layer")[0])
    monkeypatch.setattr(learn_blocks, "MOST_WEIGHTS", 4100)  # the feed-forward block has 4096 weights
    module, report = encoded("int4<group=16>", gradients=None)
    assert sum("PyTorch is not there" in note for note in report.notes) == 2
    for name, array in fields(module).items():
        np.testing.assert_array_equal(array, by_layer[name])
    monkeypatch.setattr(learn_blocks, "MOST_WEIGHTS", 4090)
    _, report = encoded("int4<group=16>", batches=images(2))
    assert [note for note in report.notes if "too many to learn together" in note]


def test_the_compiled_library_is_what_was_learned() -> None:
    batches = images(4)
    rules = {"layers": [{"match": "f.*", "weights": "int4<group=16>", "fitter": "flexround", "scope": "block"}]}
    stored = lower(transformer(), until="encode", recipe=rules, calib=batches)
    (given,) = nomul.compile(transformer(), recipe=rules, calib=batches)(batches[0][0])
    np.testing.assert_allclose(given, run(stored, *batches[0])[0], rtol=1e-4, atol=1e-5)


def test_what_a_recipe_must_have_for_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NomulError, match="calibration data") as raised:
        lower(transformer(), until="encode", recipe=recipe("int4", "block"))
    assert raised.value.code == "NM017"
    for rule, words in (
        ({"weights": "int4", "scope": "block"}, "needs a fitter that learns .flexround"),
        ({"weights": "nm", "scope": "block"}, "none for nm"),
        ({"weights": "int4", "scope": "model"}, "scope is one of layer, block"),
    ):
        with pytest.raises(NomulError, match=words):
            read_recipe({"layers": [rule]})

    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name="torch")

    monkeypatch.setattr(with_torch, "import_module", absent)
    with pytest.raises(NomulError, match="PyTorch is not installed") as raised:
        lower(transformer(), until="encode", recipe=recipe("int4", "block"), calib=images(2))
    assert raised.value.code == "NM007"
