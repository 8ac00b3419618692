"""The run that a bundle's nomul-run checks itself with: small, of accepted sizes, right for rounded weights too."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomul.api import build
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.record import MOST_ELEMENTS, record

MODEL = """\
nomul.ir 1
dim B in [1, 64]
dim S in [4, 512]
weight @table : f32[10, 96]
weight @w : f32[32, 96]
func @main(%i: i64[B, S]) -> (y: f32[B, S, 32]) {
  %x = index.gather @table, %i {axis=0} : f32[B, S, 96]
  %y = nn.linear %x, @w : f32[B, S, 32]
  return %y
}
"""
WIDE = """\
nomul.ir 1
dim H in [1, 1000]
func @main(%x: f32[1, 64, 16*H, 16*H]) -> (y: f32[1, 64, 16*H, 16*H]) {
  %y = ew.relu %x : f32[1, 64, 16*H, 16*H]
  return %y
}
"""


def module() -> Module:
    parsed = parse_module(MODEL)
    random = np.random.default_rng(0)
    for weight in parsed.weights.values():
        shape = tuple(size.value or 0 for size in weight.shape)
        weight.fields["data"] = random.standard_normal(shape, dtype=np.float32)
    return parsed


def test_the_run_is_small_and_in_range() -> None:
    found = record(module(), module())
    (indices,), (result,) = found.inputs, found.outputs
    assert indices.shape == (1, 8) and result.shape == (1, 8, 32)
    assert found.bounds == [(0, 9)] and indices.max() <= 9
    assert found.dims == {"B": 1, "S": 128}
    np.testing.assert_array_equal(result, interpreter.run(module(), indices)[0])


def test_large_inputs_get_small_sizes() -> None:
    (x,) = record(parse_module(WIDE), parse_module(WIDE)).inputs
    assert x.size == MOST_ELEMENTS and x.shape == (1, 64, 16, 16)


def test_sizes_that_the_model_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    right = interpreter.run

    def particular(definition: Module, *inputs: np.ndarray) -> Any:
        if inputs[0].shape[1] < 100:
            raise ValueError("operands could not be broadcast together")
        return right(definition, *inputs)

    monkeypatch.setattr(interpreter, "run", particular)
    assert record(module(), module()).inputs[0].shape == (1, 128)
    monkeypatch.setattr(interpreter, "run", lambda *arguments: np.zeros(2).reshape(3))
    found = record(module(), module())
    assert found.inputs == () and found.dims == {"B": 1, "S": 128}


@pytest.mark.parametrize("recipe", [None, "bf16"])
def test_the_program_of_a_compiled_bundle_passes(recipe: str | None, tmp_path: Path) -> None:
    build(module(), output=tmp_path / "bundle", recipe=recipe)
    command = [tmp_path / "bundle" / "nomul-run", "--selftest", "--tolerance", "1e-5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "selftest passed" in done.stdout, done.stdout
