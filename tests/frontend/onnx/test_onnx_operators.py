"""Operators in their forms and versions against onnxruntime, with symbolic sizes where that matters."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_forms import FORMS
from onnx_models import check, imported, model, normal, ops


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    text, opset, inputs, weights = FORMS[name]
    tolerance = 2e-2 if inputs[0].dtype == np.float16 else 1e-4
    check(model(text, opset=opset, weights=weights), *inputs, rtol=tolerance)


def test_a_gemm_with_transposed_weights_is_a_linear_layer() -> None:
    text = "g (float[N, 4] x) => (float[] y) { y = Gemm <transB = 1> (x, w, b) }"
    proto = model(text, weights={"w": normal(3, 4), "b": normal(3)})
    module = check(proto, normal(2, 4))
    assert ops(module) == ["nn.linear"] and set(module.weights) == {"w", "b"}


def test_a_gather_of_one_row_is_a_slice() -> None:
    text = "g (float[N, 3, 4] x) => (float[] y) { i = Constant <value_int = -1> ()\n y = Gather <axis = 1> (x, i) }"
    assert ops(check(model(text), normal(2, 3, 4))) == ["view.slice", "view.reshape"]


def test_positions_are_counted_and_sliced_not_gathered() -> None:
    text = """g (float[1, S, 4] x) => (float[] y) {
      shape = Shape <start = 1, end = 2> (x)
      zero = Constant <value_ints = [0]> ()
      one = Constant <value_ints = [1]> ()
      ids = Slice (table, zero, shape, one)
      rows = Gather (embedding, ids)
      y = Add (x, rows)
    }"""
    weights = {"table": np.arange(64).reshape(1, 64), "embedding": normal(64, 4)}
    module = check(model(text, weights=weights), normal(1, 9, 4))
    assert "index.gather" not in ops(module) and list(module.weights) == ["embedding"]


def test_equal_token_types_are_one_row() -> None:
    text = """g (float[B, S, 4] x) => (float[] y) {
      shape = Shape <start = 0, end = 2> (x)
      fill = ConstantOfShape <value = int64[1] {1}> (shape)
      rows = Gather (embedding, fill)
      y = Add (x, rows)
    }"""
    module = check(model(text, weights={"embedding": normal(2, 4)}), normal(2, 3, 4))
    assert "index.gather" not in ops(module)


def test_constants_fold() -> None:
    text = """g (float[N, 4] x) => (float[] y) {
      t = Transpose (w)
      s = Mul (t, t)
      c = Cast <to = 1> (s)
      y = MatMul (x, c)
    }"""
    module = check(model(text, weights={"w": normal(3, 4).astype(np.float64)}), normal(2, 4))
    assert ops(module) == ["nn.matmul"] and list(module.weights) == ["c"]


def test_names_and_layers_come_from_the_model() -> None:
    text = "g (float[N] x) => (float[] /out/y) { [/block.0/act] mid = Relu (x)\n /out/y = Exp (mid) }"
    text = text.replace("/out/y", "out_y")
    module = imported(model(text.replace("[/block.0/act] ", "")))
    assert [node.result.name for node in module.main.nodes] == ["mid", "out_y"]
    proto = model("g (float[N] x) => (float[] y) { mid = Relu (x)\n y = Exp (mid) }")
    proto.graph.node[0].name, proto.graph.node[0].output[0] = "/block.0/act", "/block.0/act out"
    proto.graph.node[1].input[0] = "/block.0/act out"
    module = imported(proto)
    assert [node.loc for node in module.main.nodes] == ["/block.0/act", "Exp:y"]
    assert module.main.nodes[0].result.name == "act_out"


def test_outputs_keep_their_names_whatever_they_are() -> None:
    text = """g (float[N] x) => (float[] same, float[] twice, float[] fixed, float[] number) {
      same = Identity (x)
      twice = Identity (same)
      fixed = Identity (w)
      number = Constant <value_float = 2.5> ()
    }"""
    module = check(model(text, weights={"w": normal(3)}), normal(4))
    assert [value.name for value in module.main.returns] == ["same", "twice", "fixed", "number"]


def test_unused_nodes_and_weights_are_dropped() -> None:
    text = "g (float[N] x) => (float[] y) { dead = Add (x, w)\n y = Relu (x) }"
    module = imported(model(text, weights={"w": normal(1)}))
    assert ops(module) == ["ew.relu"] and not module.weights


def test_an_initializer_that_is_also_an_input_is_its_default() -> None:
    proto = model("g (float[N] x, float[1] w) => (float[] y) { y = Add (x, w) }")
    proto.graph.initializer.append(model("g () => () {}", weights={"w": normal(1)}).graph.initializer[0])
    module = imported(proto)
    assert [param.name for param in module.main.params] == ["x"]


def test_one_weight_for_all_its_uses() -> None:
    text = "g (float[N, 3] x) => (float[] y) { a = MatMul (x, w)\n v = Identity (w)\n y = MatMul (a, v) }"
    assert list(imported(model(text, weights={"w": normal(3, 3)})).weights) == ["w"]


def test_a_mask_read_by_its_flat_positions_is_the_mask() -> None:
    """As exporters write `mask[batch, position]`: row * length + column into the flattened mask."""
    text = """g (bool[B, S] mask, float[B, S, S] scores) => (float[] y) {
      shape = Shape (mask)
      zero = Constant <value_int = 0> ()
      one = Constant <value_int = 1> ()
      rows = Gather (shape, zero)
      length = Gather (shape, one)
      b = Range (zero, rows, one)
      s = Range (zero, length, one)
      b_axes = Constant <value_ints = [1, 2]> ()
      s_axes = Constant <value_ints = [0, 1]> ()
      b3 = Unsqueeze (b, b_axes)
      s3 = Unsqueeze (s, s_axes)
      start = Mul (b3, length)
      place = Add (start, s3)
      flat_shape = Constant <value_ints = [-1]> ()
      flat = Reshape (mask, flat_shape)
      seen = Gather (flat, place)
      inside = GreaterOrEqual (s3, zero)
      both = And (inside, seen)
      low = Constant <value_float = -1e30> ()
      y = Where (both, scores, low)
    }"""
    mask = np.array([[True, True, False], [True, False, False]])
    module = check(model(text), mask, normal(2, 3, 3))
    assert ops(module) == ["view.reshape", "view.reshape", "ew.where"]


def test_a_comparison_that_ranges_do_not_decide_stays() -> None:
    text = """g (float[S, S] x) => (float[] y) {
      length = Shape <start = 0, end = 1> (x)
      n = Squeeze (length)
      zero = Constant <value_int = 0> ()
      one = Constant <value_int = 1> ()
      s = Range (zero, n, one)
      axes = Constant <value_ints = [1]> ()
      rows = Unsqueeze (s, axes)
      seen = LessOrEqual (s, rows)
      y = Where (seen, x, low)
    }"""
    module = check(model(text, weights={"low": np.array(-3, np.float32)}), normal(4, 4))
    assert "ew.le" in ops(module)
