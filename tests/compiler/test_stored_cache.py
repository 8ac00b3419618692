"""Past keys and values as inputs of a model become codes and scales: what it gives back is what it takes next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.ir import interpreter
from nomul.ir.attention import restored, stored
from nomul.ir.op import all_ops
from nomul.ir.parser import parse_module

TEXT = """\
nomul.ir 1
dim P in [1, 600]
func @main(%q: f32[1, {n}, 4, 8], %past_k: f32[1, 2, P, 8], %k: f32[1, {n}, 2, 8], %past_v: f32[1, P, 2, {e}], %v: f32[1, {n}, 2, {e}]) -> (y: f32[1, {n}, 4, {e}], all_k: f32[1, 2, P + {n}, 8], all_v: f32[1, P + {n}, 2, {e}]) {
  %kt = view.transpose %k {perm=[0, 2, 1, 3]} : f32[1, 2, {n}, 8]
  %joined = view.concat %past_k, %kt {axis=2} : f32[1, 2, P + {n}, 8]
  %keys = view.transpose %joined {perm=[0, 2, 1, 3]} : f32[1, P + {n}, 2, 8]
  %values = view.concat %past_v, %v {axis=1} : f32[1, P + {n}, 2, {e}]
  %y = nn.attention %q, %keys, %values {scale=0.4} : f32[1, {n}, 4, {e}]
  return %y, %joined, %values
}
"""  # noqa: E501
RNG = np.random.default_rng(41)


def model(queries: int = 1, width: int = 6) -> nomul.ir.graph.Module:
    return parse_module(TEXT.replace("{n}", str(queries)).replace("{e}", str(width)))


def recipe(kind: str) -> dict[str, object]:
    return {"attention": [{"form": "softmax", "keys_values": kind}]}


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("kind", "queries", "width"), [("i8", 1, 6), ("i4", 1, 6), ("i4", 9, 6), ("i4", 1, 5)])
def test_steps_follow_each_other(kind: str, queries: int, width: int) -> None:
    artifact = nomul.compile(model(queries, width), recipe=recipe(kind))
    codes = "i8" if kind == "i8" or width % 2 else "u8"
    assert [(port.name, port.dtype) for port in artifact.inputs][1:3] == [("past_k", codes), ("past_k.scale", "f32")]
    assert [port.name for port in artifact.outputs] == ["y", "all_k", "all_k.scale", "all_v", "all_v.scale"]
    attention = all_ops()["nn.attention"].function
    size = 8 // 2 if codes == "u8" else 8
    kinds = np.uint8 if codes == "u8" else np.int8
    zero = 0x88 if codes == "u8" else 0
    cache = [
        np.full((1, 2, 1, size), zero, kinds),
        np.zeros((1, 2, 1), np.float32),
        np.full((1, 1, 2, width // 2 if codes == "u8" else width), zero, kinds),
        np.zeros((1, 1, 2), np.float32),
    ]
    keys, values = np.zeros((1, 1, 2, 8), np.float32), np.zeros((1, 1, 2, width), np.float32)
    for _ in range(4):
        q, k, v = drawn(1, queries, 4, 8), drawn(1, queries, 2, 8), drawn(1, queries, 2, width)
        keys, values = np.concatenate([keys, k], 1), np.concatenate([values, v], 1)
        y, *cache = artifact(q, cache[0], cache[1], k, cache[2], cache[3], v)
        np.testing.assert_allclose(y, attention(q, keys, values, scale=0.4, keys_values=kind), atol=1e-5)
    np.testing.assert_array_equal(restored(*cache[:2]), stored(keys, kind).swapaxes(1, 2))
    np.testing.assert_array_equal(restored(*cache[2:]), stored(values, kind))


def test_everybody_is_told(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    artifact = nomul.compile(model(), recipe=recipe("i8"), output=tmp_path / "bundle", check=True)
    nomul.compile(model(), recipe=recipe("i8"), output=tmp_path / "library.so", report=report)
    beside = json.loads(report.read_text())["library"]["outputs"]
    assert {output["name"]: output["relative"] < 1e-5 for output in beside}.items() >= {("y", True), ("all_k", True)}
    assert any("past_k and past_v are i8 with scales now" in note for note in artifact.facts["notes"])


def test_codes_that_do_not_pair_are_told() -> None:
    artifact = nomul.compile(model(1, 5), recipe=recipe("i4"))
    wanted = "past_k and past_v are i4 in a byte each (past_v has vectors of 5 elements, which do not pair) with scales"
    assert any(wanted in note for note in artifact.facts["notes"])


def test_inputs_that_others_read_stay_floats() -> None:
    text = TEXT.replace("return %y, %joined", "return %y, %past_k").replace(
        "all_k: f32[1, 2, P + {n}", "all_k: f32[1, 2, P"
    )
    module = parse_module(text.replace("{n}", "1").replace("{e}", "6"))
    artifact = nomul.compile(module, recipe=recipe("i8"))
    assert [port.dtype for port in artifact.inputs] == ["f32"] * 5
    arrays = [drawn(1, 1, 4, 8), drawn(1, 2, 7, 8), drawn(1, 1, 2, 8), drawn(1, 7, 2, 6), drawn(1, 1, 2, 6)]
    exchanged = nomul.api.lower(module, until="exchange", recipe=recipe("i8"))
    np.testing.assert_allclose(artifact(*arrays)[0], interpreter.run(exchanged, *arrays)[0], atol=1e-5)


def test_transposed_keys_that_are_given_back_stay_floats() -> None:
    text = TEXT.replace("return %y, %joined", "return %y, %keys").replace(
        "1, 2, P + {n}, 8], all_v", "1, P + {n}, 2, 8], all_v"
    )
    module = parse_module(text.replace("{n}", "1").replace("{e}", "6"))
    artifact = nomul.compile(module, recipe=recipe("i8"))
    assert [port.dtype for port in artifact.inputs] == ["f32"] * 5


def test_one_input_that_is_keys_and_values_stays_floats() -> None:
    module = parse_module("""\
nomul.ir 1
dim P in [1, 600]
func @main(%q: f32[1, 1, 4, 8], %past: f32[1, P, 2, 8], %new: f32[1, 1, 2, 8]) -> (y: f32[1, 1, 4, 8], all: f32[1, P + 1, 2, 8]) {
  %joined = view.concat %past, %new {axis=1} : f32[1, P + 1, 2, 8]
  %y = nn.attention %q, %joined, %joined {scale=0.4} : f32[1, 1, 4, 8]
  return %y, %joined
}
""")  # noqa: E501
    artifact = nomul.compile(module, recipe=recipe("i8"))
    assert [port.dtype for port in artifact.inputs] == ["f32"] * 3
