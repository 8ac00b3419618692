"""Whole models with every built-in recipe: results as the interpreter's, and weights of the size that was promised."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nomul
from nomul.backends.build import ALIGNMENT
from nomul.backends.decoders import tables_of
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.ir.op import Kind
from nomul.ir.parser import parse_module
from nomul.recipe import built_in
from tests.portable_c_harness import build_library, run_library

EXAMPLES = str(Path(__file__).parents[2] / "examples")
sys.path.insert(0, EXAMPLES)  # for this import only, as the names of examples are not ours alone
from real_models import OCR_MODELS, PackageMissing, minilm_l3, ocr_model  # noqa: E402

sys.path.remove(EXAMPLES)

RECIPES = sorted(built_in())
NETWORK = """\
nomul.ir 1
dim B in [1, 3]
weight @conv1 : f32[32, 3, 3, 3]
weight @conv2 : f32[128, 32, 2, 2]
weight @bias2 : f32[128]
weight @point : f32[128, 128, 1, 1]
weight @q : f32[128, 128]
weight @k : f32[128, 128]
weight @up : f32[256, 128]
weight @up_bias : f32[256]
weight @down : f32[128, 256]
func @main(%image: f32[B, 3, 17, 13]) -> (result: f32[B, 12, 128]) {
  %a = nn.conv2d %image, @conv1 {strides=[2, 2], pads=[1, 1, 1, 1]} : f32[B, 32, 9, 7]
  %b = ew.relu %a : f32[B, 32, 9, 7]
  %c = nn.conv2d %b, @conv2, @bias2 {strides=[2, 2]} : f32[B, 128, 4, 3]
  %d = nn.conv2d %c, @point : f32[B, 128, 4, 3]
  %e = view.reshape %d {shape=[B, 128, 12]} : f32[B, 128, 12]
  %x = view.transpose %e {perm=[0, 2, 1]} : f32[B, 12, 128]
  %q = nn.linear %x, @q : f32[B, 12, 128]
  %k = nn.linear %x, @k : f32[B, 12, 128]
  %s = ew.sigmoid %q : f32[B, 12, 128]
  %m = ew.mul %s, %k : f32[B, 12, 128]
  %u = nn.linear %m, @up, @up_bias : f32[B, 12, 256]
  %g = ew.gelu %u : f32[B, 12, 256]
  %y = nn.linear %g, @down : f32[B, 12, 128]
  return %y
}
"""


def network() -> Module:
    module, generator = parse_module(NETWORK), np.random.default_rng(0)
    for weight in module.weights.values():
        shape = [int(n) for n in weight.shape]
        weight.fields = {"data": (generator.standard_normal(shape) / np.prod(shape[1:]) ** 0.5).astype(np.float32)}
    return module


def compiled(module: Module, folder: Path) -> Iterator[nomul.Artifact]:
    """The artifact of a module that has its passes behind it, on each level."""
    with nomul.compile(module, output=folder / "model.so", name="model") as artifact:
        for level in artifact.levels:
            artifact.force_level(level)
            yield artifact


def promised_bytes(module: Module) -> int:
    """Stored fields of all weights and the tables of decoders, each at a multiple of the alignment."""
    arrays = [array.nbytes for weight in module.weights.values() for array in weight.fields.values()]
    encodings = {str(w.type.encoding): w.type.encoding for w in module.weights.values() if w.type.encoding}
    arrays += [table.nbytes for encoding in encodings.values() for table in tables_of(encoding).values()]
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in arrays)


def close(got: Any, expected: np.ndarray, tolerance: float) -> None:
    """An activation that lies between two integers may be rounded to the other one."""
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error < tolerance, error


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes(recipe: str, tmp_path: Path) -> None:
    module = nomul.lower(network(), recipe=recipe)
    image = np.random.default_rng(1).standard_normal((2, 3, 17, 13)).astype(np.float32)
    (expected,) = interpreter.run(module, image)
    for artifact in compiled(module, tmp_path):
        close(artifact(image)[0], expected, 2e-3)
    # panels are padded to 32 columns where dense, 64 for dot products, 128 for look-ups
    assert artifact.facts["weights_bytes"] <= promised_bytes(module) + 8192


def test_portable_c(tmp_path: Path) -> None:
    module = nomul.lower(network(), recipe="mixed")
    image = np.random.default_rng(1).standard_normal((2, 3, 17, 13)).astype(np.float32)
    (expected,) = interpreter.run(module, image)
    nomul.build(module, output=tmp_path / "c", target="c", emit="c", name="model")
    got = np.zeros_like(expected)
    run_library(build_library(tmp_path / "c", "-O1"), [image], [got])
    close(got, expected, 2e-3)


def test_layers_share_a_quantised_input() -> None:
    module = nomul.lower(network(), recipe="int8")
    ops = [node.op for func in module.funcs.values() for node in func.nodes]
    assert ops.count("nn.quantised_linear") == 4 and ops.count("nn.quantised_conv2d") == 3
    assert ops.count("nn.quantise") == 6
    anchors = [node for func in module.funcs.values() for node in func.nodes if node.spec.kind is Kind.ANCHOR]
    assert all(node.attrs.get("act", "f32") == "f32" for node in anchors)


def test_weights_shrink_as_the_bits_say(tmp_path: Path) -> None:
    # byte dot products read five trits of base3 from ten bits
    bits = {"int8": 8, "ternary<group=32, pack=base3>": 2.5, "nm<value=int4>": 2.75}
    sizes = {}
    for recipe in bits:
        module = nomul.lower(network(), recipe={"conv1": "f32", "*": recipe})
        with nomul.compile(module, output=tmp_path / "model.so", name="model") as artifact:
            sizes[recipe] = artifact.facts["weights_bytes"]
    weights = 128 * (32 * 4 + 128 + 128 + 128 + 256 + 256)
    kept = 32 * 27 * 4 + 384 * 4  # the first convolution and the biases
    for recipe, size in sizes.items():
        assert size == pytest.approx(weights * bits[recipe] / 8 + kept, rel=0.05), recipe


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ["minilm", "ocr"])
def test_real_models(name: str, recipe: str, tmp_path: Path) -> None:
    """Kernels and interpreter differ by less than both do from the model: one activation that is rounded to the other
    neighbour can change all that follow (so does a change of a weight by 1e-7, in the interpreter alone)."""
    try:
        path = minilm_l3() if name == "minilm" else ocr_model(OCR_MODELS[2])
    except PackageMissing as missing:
        pytest.skip(str(missing))
    generator = np.random.default_rng(2)
    if name == "minilm":
        inputs = [generator.integers(1000, 20000, (1, 19)), np.ones((1, 19), np.int64)]
    else:
        inputs = [generator.standard_normal((1, 3, 48, 192)).astype(np.float32)]
    module = nomul.lower(path, recipe=recipe)
    expected = interpreter.run(module, *inputs)
    plain = interpreter.run(nomul.lower(path), *inputs)
    for artifact in compiled(module, tmp_path):
        for got, right, float_ in zip(artifact(*inputs), expected, plain, strict=True):
            close(got, right, 1e-3 + np.linalg.norm(right - float_) / np.linalg.norm(float_))
