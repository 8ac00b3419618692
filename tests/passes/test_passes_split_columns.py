"""Layers with `split` weights become two (`passes/split_columns.py`) that give the same, and have fast kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import nomul
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.passes.dead_code import DeadCode
from nomul.passes.quantise_inputs import QuantiseInputs
from nomul.passes.runner import PassRunner
from nomul.passes.split_columns import SplitColumns

DEPTH, WIDTH = 192, 37
DEFAULT = "split<salient=0.25>"
CASES = [
    (DEFAULT, ""),
    (DEFAULT, '{act="i8"}'),
    ("split<salient=0.3, value=int8, rest=ternary<group=16>>", '{act="i8"}'),
    ("split<columns=1, value=codebook<entries=16, group=24>>", ""),
    ("split<columns=1>", '{act="i8"}'),
]


def module_of(encoding: str, attributes: str) -> Module:
    module = parse_module(
        f"""nomul.ir 1
dim M in [1, 64]
weight @w : f32[{WIDTH}, {DEPTH}] as {encoding}
weight @b : f32[{WIDTH}]
func @main(%x: f32[2, M, {DEPTH}]) -> (f32[2, M, {WIDTH}]) {{
  %y = nn.linear %x, @w, @b {attributes} : f32[2, M, {WIDTH}]
  %z = ew.relu %y : f32[2, M, {WIDTH}]
  return %z
}}
"""
    )
    rng = np.random.default_rng(0)
    w, b = module.weights["w"], module.weights["b"]
    assert w.type.encoding is not None
    w.fields = w.type.encoding.pack(rng.standard_normal((WIDTH, DEPTH)).astype(np.float32))
    b.fields = {"data": rng.standard_normal(WIDTH).astype(np.float32)}
    return module


@pytest.mark.parametrize(("encoding", "attributes"), CASES)
def test_layers_are_taken_apart(encoding: str, attributes: str, tmp_path: Path) -> None:
    module = module_of(encoding, attributes)
    x = np.random.default_rng(1).standard_normal((2, 5, DEPTH)).astype(np.float32)
    (expected,) = interpreter.run(module, x)
    apart = PassRunner(check=True).apply_all(module, [QuantiseInputs(), SplitColumns(), DeadCode()])
    names = {str(weight.type.encoding).partition("<")[0] for weight in apart.weights.values() if weight.type.encoding}
    assert "split" not in names and len(names) == 2
    (got,) = interpreter.run(apart, x)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    artifact = nomul.load(nomul.build(module, output=tmp_path / "m.so", target="host"))
    np.testing.assert_allclose(artifact(x)[0], expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    products = [step for step in artifact.facts["steps"] if "linear" in step]
    assert len(products) == 2 and not any("generic" in step or "split" in step for step in products)


@pytest.mark.parametrize("attributes", ["strides=[2, 1]", 'strides=[2, 1], act="i8"', "groups=2"])
def test_convolutions_of_pixels_are_taken_apart(attributes: str, tmp_path: Path) -> None:
    """Those with groups stay."""
    module = image_of(f"1, 1] as {DEFAULT}", DEPTH if "groups" not in attributes else DEPTH // 2, attributes)
    x = np.random.default_rng(1).standard_normal((2, 4, 3, DEPTH)).astype(np.float32)
    (expected,) = interpreter.run(module, x)
    apart = PassRunner(check=True).apply_all(module, [QuantiseInputs(), SplitColumns(), DeadCode()])
    encodings = [weight.type.encoding for weight in apart.weights.values() if weight.type.encoding]
    assert [str(encoding).startswith("split") for encoding in encodings] == (
        [True] if "groups" in attributes else [False] * 2
    )
    np.testing.assert_allclose(interpreter.run(apart, x)[0], expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    if "act" in attributes:
        artifact = nomul.load(nomul.build(module, output=tmp_path / "m.so", target="host"))
        np.testing.assert_allclose(artifact(x)[0], expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
        products = [step for step in artifact.facts["steps"] if "conv2d" in step]
        assert len(products) == 2 and all("bytes_product" in step for step in products)


def test_convolutions_of_windows_stay() -> None:
    module = image_of(f"2, 1] as {DEFAULT}", DEPTH, "")
    kept = PassRunner().apply_all(module, [QuantiseInputs(), SplitColumns(), DeadCode()])
    assert [node.op for node in kept.main.nodes] == ["nn.conv2d"]


def image_of(weight: str, channels: int, attributes: str) -> Module:
    """A convolution in nhwc. weight: the end of its type."""
    height = 4 if weight.startswith("1") else 3
    rows = -(-height // 2) if "strides" in attributes else height
    shape = f"f32[2, {rows}, 3, {WIDTH + 1}]"
    module = parse_module(
        f"""nomul.ir 1
weight @w : f32[{WIDTH + 1}, {channels}, {weight}
func @main(%x: f32[2, 4, 3, {DEPTH}]) -> ({shape}) {{
  %y = nn.conv2d %x, @w {{layout="nhwc"{", " if attributes else ""}{attributes}}} : {shape}
  return %y
}}
"""
    )
    w = module.weights["w"]
    assert w.type.encoding is not None
    sizes = tuple(int(size) for size in w.shape)
    w.fields = w.type.encoding.pack(np.random.default_rng(0).standard_normal(sizes).astype(np.float32))
    return module


def test_weights_without_data_stay() -> None:
    module = module_of(DEFAULT, "")
    module.weights["w"].fields = {}
    kept = PassRunner().apply_all(module, [SplitColumns()])
    assert [node.op for node in kept.main.nodes] == ["nn.linear", "ew.relu"]


def two_layers(dtype: str, encoding: str) -> Module:
    """Two layers of one weight in eight bits."""
    module = parse_module(
        f"""nomul.ir 1
weight @w : {dtype}[{WIDTH}, {DEPTH}] as {encoding}
func @main(%x: {dtype}[3, {DEPTH}]) -> ({dtype}[3, {WIDTH}], {dtype}[3, {WIDTH}]) {{
  %y = nn.linear %x, @w {{act="i8"}} : {dtype}[3, {WIDTH}]
  %t = ew.tanh %x : {dtype}[3, {DEPTH}]
  %z = nn.linear %t, @w {{act="i8"}} : {dtype}[3, {WIDTH}]
  return %y, %z
}}
"""
    )
    weight = module.weights["w"]
    assert weight.type.encoding is not None
    weight.fields = weight.type.encoding.pack(np.random.default_rng(2).standard_normal((WIDTH, DEPTH), np.float32))
    return module


def test_layers_of_one_weight_share_both_sides() -> None:
    apart = PassRunner().apply_all(
        two_layers("f32", "split<columns=1>"), [QuantiseInputs(), SplitColumns(), DeadCode()]
    )
    assert [weight.type.encoding.name for weight in apart.weights.values() if weight.type.encoding] == [
        "int4",
        "bitplane",
    ]


def test_scales_of_columns_multiply_no_integers() -> None:
    """Half floats are quantised whatever the encoding."""
    module = two_layers("f16", "split<columns=1>")
    x = np.random.default_rng(3).standard_normal((3, DEPTH)).astype(np.float16)
    apart = PassRunner().apply_all(module, [QuantiseInputs(), SplitColumns(), DeadCode()])
    artifact = nomul.compile(module)
    for expected, kept, got in zip(interpreter.run(module, x), interpreter.run(apart, x), artifact(x), strict=True):
        np.testing.assert_array_equal(kept, expected)
        np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max(), rtol=0)
