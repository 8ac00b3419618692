"""Operators that onnxruntime's optimiser writes, and whole models that it has optimised, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_models import check, imported, model, normal, ops, reference

from nomul.ir import interpreter

W = {"w": normal(4, 4), "b": normal(4), "g0": normal(4), "wide": normal(12)}
FORMS = {
    "gelu": "y = com.microsoft.Gelu (x)",
    "gelu with bias": "y = com.microsoft.BiasGelu (x, b)",
    "fast gelu": "y = com.microsoft.FastGelu (x, b)",
    "quick gelu": "y = com.microsoft.QuickGelu <alpha = 1.5> (x)",
    "product": "y = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, w)",
    "norm of a sum": "y, m, d, s = com.microsoft.SkipLayerNormalization <epsilon = 1e-5> (x, x, g0, b, b)",
    "rms norm of a sum": "y, m, d, s = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-5> (x, x, g0)",
    "rms norm": "y = SimplifiedLayerNormalization <epsilon = 1e-5> (x, g0)",
    "attention": "y = com.microsoft.MultiHeadAttention <num_heads = 2> (x, x, x, wide)",
}


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    text = f"g (float[N, S, 4] x) => (float[] y) {{ {FORMS[name]} }}".replace("m, d, s", ", , s")
    check(model(text, weights={k: v for k, v in W.items() if k in FORMS[name]}), normal(2, 3, 4), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
def test_convolution_with_activation(activation: str) -> None:
    parameters = ", activation_params = [0.2]" if activation == "LeakyRelu" else ""
    text = (
        "g (float[N, 3, H, W] x) => (float[] y) {"
        f' y = com.microsoft.FusedConv <activation = "{activation}", pads = [1, 1, 1, 1]{parameters}> (x, k, c) }}'
    )
    check(model(text, weights={"k": normal(4, 3, 3, 3), "c": normal(4)}), normal(2, 3, 5, 6))


def test_a_model_that_onnxruntime_has_optimised(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    text = """g (float[N, S, 4] x) => (float[] y) {
      h = MatMul (x, w)
      hb = Add (h, b)
      root = Constant <value_float = 1.41421356> ()
      half = Constant <value_float = 0.5> ()
      one = Constant <value_float = 1.0> ()
      scaled = Div (hb, root)
      e = Erf (scaled)
      e1 = Add (e, one)
      p = Mul (hb, e1)
      act = Mul (p, half)
      res = Add (act, x)
      y = LayerNormalization (res, g0, b)
    }"""
    proto, x = model(text, weights={k: W[k] for k in ("w", "b", "g0")}), normal(2, 3, 4)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(proto.SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    assert any(node.domain == "com.microsoft" for node in optimised.graph.node)
    module = imported(optimised)
    assert "ew.gelu" in ops(module)
    np.testing.assert_allclose(interpreter.run(module, x)[0], reference(proto, [x])[0], rtol=1e-3, atol=1e-4)
