"""Quantised models as onnxruntime's tools write them, and the quantising operators, against onnxruntime."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import check, imported, model, normal, ops, reference

from nomul.ir import interpreter

quantization = pytest.importorskip("onnxruntime.quantization", reason="onnxruntime is not installed")

NET = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
  a = Conv <pads = [1, 1, 1, 1]> (x, k, c)
  b = Relu (a)
  d = GlobalAveragePool (b)
  f = Flatten (d)
  y = Gemm <transB = 1> (f, w, v)
}"""
WEIGHTS = {"k": normal(4, 3, 3, 3), "c": normal(4), "w": normal(5, 4), "v": normal(5)}


class Samples(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.rest = [{"x": normal(2, 3, 8, 8, seed=seed)} for seed in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.rest.pop() if self.rest else None


def saved(folder: Path) -> Path:
    proto = model(NET, weights=WEIGHTS)
    proto.opset_import.pop()  # the tools know the domain of the standard only
    proto.opset_import.pop()
    onnx.save(proto, folder / "float.onnx")
    logging.getLogger().setLevel(logging.ERROR)
    return folder / "float.onnx"


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_static_quantisation(form: str, per_channel: bool, tmp_path: Path) -> None:
    target = tmp_path / "quantised.onnx"
    quantization.quantize_static(
        saved(tmp_path),
        target,
        Samples(),
        quant_format=quantization.QuantFormat[form],
        per_channel=per_channel,
        op_types_to_quantize=["Conv"],
    )
    proto, x = onnx.load(target), normal(2, 3, 8, 8, seed=9)
    (expected,) = reference(proto, [x])
    (result,) = interpreter.run(imported(proto), x)
    assert np.abs(result - expected).max() <= 0.02 * np.abs(expected).max()  # a rounding may fall to the other side


def test_dynamic_quantisation(tmp_path: Path) -> None:
    target = tmp_path / "quantised.onnx"
    quantization.quantize_dynamic(saved(tmp_path), target, op_types_to_quantize=["MatMul", "Gemm"])
    proto, x = onnx.load(target), normal(2, 3, 8, 8)
    assert {"MatMulInteger", "DynamicQuantizeLinear"} <= {node.op_type for node in proto.graph.node}
    (expected,) = reference(proto, [x])
    (result,) = interpreter.run(imported(proto), x)
    assert np.abs(result - expected).max() <= 0.02 * np.abs(expected).max()


def test_quantised_weights_become_floats_at_import() -> None:
    text = "g (float[N, 4] x) => (float[] y) { w = DequantizeLinear <axis = 0> (q, s, z)\n y = MatMul (x, w) }"
    weights = {
        "q": np.arange(-6, 6, dtype=np.int8).reshape(4, 3),
        "s": np.float32([0.5, 0.25, 2, 1]),
        "z": np.array([1, 0, -2, 3], np.int8),
    }
    module = check(model(text, weights=weights), normal(2, 4))
    assert ops(module) == ["nn.matmul"] and list(module.weights) == ["w"]


@pytest.mark.parametrize(("kind", "low"), [(onnx.TensorProto.INT4, -8), (onnx.TensorProto.UINT4, 0)])
def test_weights_of_four_bits(kind: int, low: int) -> None:
    text = "g (float[N, 4] x) => (float[] y) { w = DequantizeLinear <axis = 0> (q, s)\n y = MatMul (x, w) }"
    proto = model(text, opset=21, weights={"s": np.float32([0.5, 0.25, 2, 1])})
    numbers = np.arange(low, low + 12).reshape(4, 3)
    proto.graph.initializer.append(onnx.helper.make_tensor("q", kind, [4, 3], numbers.reshape(-1).tolist()))
    check(proto, normal(2, 4))
