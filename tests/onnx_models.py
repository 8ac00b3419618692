"""Small ONNX models from text, and their comparison with onnxruntime through the import and the interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest

from nomul.frontend import import_onnx
from nomul.frontend.common import DimRequest, NomulWarning
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.ir.verifier import verify

Arrays = Sequence[np.ndarray]


def model(text: str, *, opset: int = 17, weights: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """A model from the graph's text, `g (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }`."""
    domains = f'["" : {opset}, "com.microsoft" : 1, "local" : 1]'
    proto = onnx.parser.parse_model(f"<ir_version: 8, opset_import: {domains}>\n{text}")
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def imported(proto: onnx.ModelProto | str, dims: Mapping[str, DimRequest] | None = None) -> Module:
    """The verified module of a model; notes about dims are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NomulWarning)
        module = import_onnx(proto, dims=dims)
    verify(module)
    return module


def ops(module: Module) -> list[str]:
    return [node.op for node in module.main.nodes]


def check(
    proto: onnx.ModelProto, *inputs: np.ndarray, module: Module | None = None, rtol: float = 1e-4, atol: float = 1e-5
) -> Module:
    """Import, interpret, compare with onnxruntime. rtol and atol: as numpy's assert_allclose."""
    module = module or imported(proto)
    expected = reference(proto, inputs)
    results = interpreter.run(module, *inputs)
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype and result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol, atol)
    return module


def reference(proto: onnx.ModelProto, inputs: Arrays) -> Arrays:
    """What onnxruntime computes."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return session.run(None, {port.name: array for port, array in zip(session.get_inputs(), inputs, strict=True)})


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """f32 numbers around 0."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
