"""A library with exchanged weights computes what one computes that is compiled with them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.ir.graph import Module, Weight
from nomul.ir.parser import parse_module

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from accuracy_exchange import Exchange, sources_of  # it stands in benchmarks/

TEXT = """\
nomul.ir 1
dim B in [1, 16]
weight @query : f32[32, 64]
weight @key : f32[32, 64]
weight @bias : f32[32]
weight @last : f32[8, 32]
func @main(%x: f32[B, 64]) -> (f32[B, 8]) {
  %q = nn.linear %x, @query, @bias : f32[B, 32]
  %k = nn.linear %x, @key : f32[B, 32]
  %t = ew.tanh %k : f32[B, 32]
  %p = ew.mul %q, %t : f32[B, 32]
  %y = nn.linear %p, @last : f32[B, 8]
  return %y
}
"""
X = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32)


def _model(seed: int, text: str = TEXT) -> Module:
    module = parse_module(text)
    generator = np.random.default_rng(seed)
    for weight in module.weights.values():
        array = generator.standard_normal([int(size) for size in weight.shape])
        weight.fields = Weight.dense("w", array.astype(np.float32)).fields
    return module


@pytest.fixture(scope="module")
def library() -> Exchange:
    return Exchange(_model(0))


@pytest.mark.parametrize("seed", [0, 7, 0])
def test_exchanged_weights_are_those_of_a_fresh_library(library: Exchange, seed: int) -> None:
    run = library.run_with(_model(seed))
    assert run is not None
    np.testing.assert_array_equal(run([X])[0], nomul.compile(_model(seed))(X)[0])


def test_one_implementation_outlives_the_next_exchange(library: Exchange) -> None:
    first, second = library.run_with(_model(3)), library.run_with(_model(4))
    assert first is not None and second is not None
    np.testing.assert_array_equal(first([X])[0], nomul.compile(_model(3))(X)[0])


def test_another_graph_is_refused(library: Exchange) -> None:
    assert library.run_with(_model(0, TEXT.replace("ew.tanh", "ew.exp"))) is None


def test_sources_of_stacked_weights() -> None:
    module, final = Module(), Module()
    parts = {name: np.full((2, 3), value, np.float32) for name, value in (("a", 1), ("b", 2), ("c", 3), ("d", 3))}
    for name, array in parts.items():
        module.add_weight(Weight.dense(name, array))
    for names in ("ab", "ba", "bc", "a", "bx"):
        arrays = [parts.get(name, np.zeros((2, 3), np.float32)) for name in names]
        final.add_weight(Weight.dense(names, np.concatenate(arrays)))
    assert sources_of(final, module) == {"ab": ("a", "b"), "ba": ("b", "a"), "a": ("a",)}  # c and d are the same
