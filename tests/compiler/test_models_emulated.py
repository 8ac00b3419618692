"""Whole models on ARM under qemu-user: small transformers with random weights, and text recognition with real ones."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulate import emulated

import nomul
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.source import read_model

EXAMPLES = str(Path(__file__).parents[2] / "examples")
sys.path.insert(0, EXAMPLES)  # for this import only, as the names of examples are not ours alone
from real_models import PackageMissing, ocr_model  # noqa: E402

sys.path.remove(EXAMPLES)
pytestmark = pytest.mark.slow


def agree(results: Sequence[np.ndarray], expected: Sequence[np.ndarray], tolerance: float = 1e-4) -> None:
    assert len(results) == len(expected)
    for given, wanted in zip(results, expected, strict=True):
        assert given.shape == wanted.shape
        assert np.abs(given - wanted).max() <= tolerance * np.abs(wanted).max()


def transformer(name: str) -> tuple[Module, list[list[np.ndarray]]]:
    """The import of a small model, and inputs of several sizes."""
    from tests.frontend.torch import test_torch_transformers as models
    from tests.torch_models import arrays, imported, torch

    if name in models.IMAGES:
        kind, config = models.IMAGES[name]
        config = config | {"window_size": 4} if name == "swin" else config
        inputs: list[Any] = [{"pixel_values": torch.randn(batch, 3, 32, 32)} for batch in (2, 1)]
        shapes: dict[str, Any] = {"pixel_values": {0: "B"}}
        module = imported(models.build(kind, config), inputs[0], dynamic_shapes=shapes, dims={"B": (1, 8)})
        return module, [arrays(each) for each in inputs]
    grouped = {"num_key_value_heads": 2, "max_position_embeddings": 128}
    kinds = {
        "bert": ("Bert", models.TEXT),
        "gpt2": ("GPT2", models.GPT2),
        "llama": ("Llama", models.TEXT | grouped),
        "t5 encoder": ("T5Encoder", models.T5),
    }
    has_cache = name in ("gpt2", "llama")
    inputs = [models.text(*size, True, not has_cache) for size in ((2, 9), (1, 5), (3, 20))]
    shapes = dict.fromkeys(("input_ids", "attention_mask"), models.TOKENS)
    module = imported(models.build(*kinds[name]), inputs[0], dynamic_shapes=shapes, dims=models.DIMS)
    return module, [arrays(each) for each in inputs]


TRANSFORMERS = ("bert", "gpt2", "llama", "t5 encoder", "vit", "swin", "resnet", "mobilenet", "convnext")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    module, cases = transformer(name)
    program = emulated(module, "aarch64-linux", tmp_path)
    for inputs in cases:
        expected = interpreter.run(module, *inputs)
        for cpu in ("cortex-a53", "max"):  # the lowest of the three levels, and the highest
            agree(program(*inputs, cpu=cpu), expected)


@pytest.mark.parametrize(
    ("name", "height", "widths"),
    [
        ("PP-OCRv6_rec_small", 48, (32, 71)),
        ("ch_ppocr_mobile_v2.0_cls_mobile", 48, (192,)),
        ("PP-OCRv6_det_small", 64, (96,)),
    ],
)
def test_text_recognition(name: str, height: int, widths: tuple[int, ...], tmp_path: Path) -> None:
    try:
        module = read_model(ocr_model(name), None, dict(_dims(name)))
    except PackageMissing as missing:
        pytest.skip(str(missing))
    program = emulated(module, "aarch64-linux+neon", tmp_path)
    with nomul.compile(module) as here:
        for width in widths:
            image = np.random.default_rng(width).standard_normal((1, 3, height, width), np.float32)
            agree(program(image, cpu="cortex-a53"), here(image))


def _dims(name: str) -> dict[str, tuple[int, int]]:
    if "det" in name:
        return {"x_0": (1, 1), "x_2": (32, 1536), "x_3": (32, 1536)}
    return {"x_0": (1, 8), "x_3": (32, 2048)} | ({"x_2": (48, 48)} if "cls" in name else {})
