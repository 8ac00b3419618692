"""Operators in their forms and versions against onnxruntime, with symbolic sizes where that matters."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_models import check, imported, model, normal, ops

F = np.float32

FORMS = {
    # name: (graph, operator set, inputs, weights)
    "same pads, symbolic": (
        'g (float[1, 2, H, W] x) => (float[] y) { y = Conv <auto_pad = "SAME_UPPER", strides = [2, 3]> (x, w, b) }',
        13,
        [normal(1, 2, 7, 11)],
        {"w": normal(4, 2, 3, 5), "b": normal(4)},
    ),
    "same pads below, constant": (
        'g (float[1, 2, 7, 8] x) => (float[] y) { y = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w) }',
        13,
        [normal(1, 2, 7, 8)],
        {"w": normal(4, 2, 4, 3)},
    ),
    "convolution over one axis": (
        "g (float[N, 4, L] x) => (float[] y) { y = Conv <group = 2, pads = [2, 1], dilations = [2]> (x, w, b) }",
        9,
        [normal(2, 4, 9)],
        {"w": normal(6, 2, 3), "b": normal(6)},
    ),
    "transposed convolution": (
        "g (float[1, 3, H, 5] x) => (float[] y) {"
        " y = ConvTranspose <strides = [2, 2], pads = [1, 0, 1, 1], output_padding = [1, 0]> (x, w) }",
        11,
        [normal(1, 3, 4, 5)],
        {"w": normal(3, 2, 3, 3)},
    ),
    "transposed convolution of one axis": (
        "g (float[1, 3, L] x) => (float[] y) { y = ConvTranspose <strides = [3], group = 3> (x, w) }",
        11,
        [normal(1, 3, 6)],
        {"w": normal(3, 2, 4)},
    ),
    "max pool, ceil": (
        "g (float[1, 2, H, W] x) => (float[] y) {"
        " y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x) }",
        12,
        [normal(1, 2, 8, 7)],
        {},
    ),
    "max pool, last window in the padding": (
        "g (float[1, 1, 5, 5] x) => (float[] y) {"
        " y = MaxPool <kernel_shape = [2, 2], strides = [3, 3], pads = [0, 0, 1, 1], ceil_mode = 1> (x) }",
        12,
        [normal(1, 1, 5, 5)],
        {},
    ),
    "average pool of one axis with pads": (
        "g (float[1, 2, L] x) => (float[] y) {"
        " y = AveragePool <kernel_shape = [3], strides = [2], pads = [1, 1]> (x) }",
        11,
        [normal(1, 2, 9)],
        {},
    ),
    "softmax over trailing axes": (
        "g (float[N, 3, 4] x) => (float[] y) { y = Softmax <axis = 1> (x) }",
        11,
        [normal(2, 3, 4)],
        {},
    ),
    "softmax over one axis": (
        "g (float[N, 3, 4] x) => (float[] y) { y = Softmax <axis = 1> (x) }",
        13,
        [normal(2, 3, 4)],
        {},
    ),
    "clip by attributes": (
        "g (float[N] x) => (float[] y) { y = Clip <min = -0.5, max = 0.25> (x) }",
        9,
        [normal(9)],
        {},
    ),
    "clip by constants": (
        "g (float[N] x) => (float[] y) { y = Clip (x, low, high) }",
        12,
        [normal(9)],
        {"low": F(-0.5).reshape(()), "high": F(0.25).reshape(())},
    ),
    "clip by operands": (
        "g (float[N] x, float low, float high) => (float[] y) { y = Clip (x, low, high) }",
        12,
        [normal(9), np.array(-0.5, F), np.array(0.5, F)],
        {},
    ),
    "slice by attributes": (
        "g (float[N, 6] x) => (float[] y) { y = Slice <axes = [1], starts = [1], ends = [-1]> (x) }",
        9,
        [normal(3, 6)],
        {},
    ),
    "squeeze by attribute": (
        "g (float[N, 1, 6] x) => (float[] y) { y = Squeeze <axes = [1]> (x) }",
        11,
        [normal(3, 1, 6)],
        {},
    ),
    "unsqueeze by operand": (
        "g (float[N, 6] x) => (float[] y) { y = Unsqueeze (x, axes) }",
        13,
        [normal(3, 6)],
        {"axes": np.array([0, -1])},
    ),
    "pad by attribute": (
        'g (float[N, 4] x) => (float[] y) { y = Pad <mode = "reflect", pads = [0, 1, 0, 2]> (x) }',
        9,
        [normal(3, 4)],
        {},
    ),
    "pad, some of it negative": (
        "g (float[N, 6] x) => (float[] y) { y = Pad (x, pads, fill) }",
        13,
        [normal(3, 6)],
        {"pads": np.array([1, -2, 0, 1]), "fill": F(2.5).reshape(())},
    ),
    "split by attribute": (
        "g (float[N, 6] x) => (float[] a, float[] b) { a, b = Split <axis = 1, split = [2, 4]> (x) }",
        11,
        [normal(3, 6)],
        {},
    ),
    "split into uneven parts": (
        "g (float[2, 7] x) => (float[] a, float[] b, float[] c) { a, b, c = Split <axis = 1, num_outputs = 3> (x) }",
        18,
        [normal(2, 7)],
        {},
    ),
    "sum over an operand's axes": (
        "g (float[N, 6, 2] x) => (float[] y) { y = ReduceSum <keepdims = 0> (x, axes) }",
        13,
        [normal(3, 6, 2)],
        {"axes": np.array([-1, 0])},
    ),
    "mean over an attribute's axes": (
        "g (float[N, 6, 2] x) => (float[] y) { y = ReduceMean <axes = [1], keepdims = 1> (x) }",
        13,
        [normal(3, 6, 2)],
        {},
    ),
    "largest k": (
        "g (float[N, 9] x) => (float[] y, int64[] i) { y, i = TopK <axis = 1> (x, k) }",
        11,
        [normal(3, 9)],
        {"k": np.array([4])},
    ),
    "up-sampling by operand": (
        'g (float[1, 2, H, W] x) => (float[] y) { y = Upsample <mode = "linear"> (x, scales) }',
        9,
        [normal(1, 2, 3, 4)],
        {"scales": F([1, 1, 2, 2])},
    ),
    "resize by scales, symbolic": (
        'g (float[1, 2, H, W] x) => (float[] y) { y = Resize <mode = "linear"> (x, , scales) }',
        13,
        [normal(1, 2, 5, 6)],
        {"scales": F([1, 1, 1.5, 2])},
    ),
    "resize to the size of another": (
        "g (float[1, 2, H, W] x, float[1, 2, I, J] like) => (float[] y) {"
        ' size = Shape (like)\n y = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",'
        ' nearest_mode = "floor"> (x, , , size) }',
        13,
        [normal(1, 2, 5, 6), normal(1, 2, 9, 11)],
        {},
    ),
    "resize of one axis": (
        "g (float[1, 2, L] x) => (float[] y) {"
        ' y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners">'
        " (x, , , size) }",
        13,
        [normal(1, 2, 5)],
        {"size": np.array([1, 2, 9])},
    ),
    "gemm with everything": (
        "g (float[K, M] a) => (float[] y) { y = Gemm <transA = 1, transB = 1, alpha = 0.5, beta = 2.0> (a, b, c) }",
        11,
        [normal(4, 3)],
        {"b": normal(5, 4), "c": normal(1, 5)},
    ),
    "product of vectors": ("g (float[K] a, float[K] b) => (float[] y) { y = MatMul (a, b) }", 13, [normal(4)] * 2, {}),
    "product of integers": (
        "g (int32[M, 3] a, int32[3, N] b) => (int32[] y) { y = MatMul (a, b) }",
        13,
        [np.arange(6, dtype=np.int32).reshape(2, 3) - 3, np.arange(12, dtype=np.int32).reshape(3, 4)],
        {},
    ),
    "einsum of attention": (
        "g (float[B, S, 2, D] q, float[B, T, 2, D] k) => (float[] y) {"
        ' y = Einsum <equation = "bshd,bthd->bhst"> (q, k) }',
        13,
        [normal(2, 3, 2, 4), normal(2, 5, 2, 4, seed=1)],
        {},
    ),
    "einsum of three": (
        'g (float[B, I] x, float[B, J] y) => (float[] z) { z = Einsum <equation = "bi,ijk,bj->bk"> (x, w, y) }',
        13,
        [normal(2, 3), normal(2, 4, seed=1)],
        {"w": normal(3, 4, 5)},
    ),
    "powers": (
        "g (float[N] x) => (float[] a, float[] b, float[] c) {"
        " a = Pow (x, two)\n b = Pow (x, half)\n c = Pow (x, odd) }",
        13,
        [np.abs(normal(8)) + F(0.1)],
        {"two": F(2).reshape(()), "half": F(0.5).reshape(()), "odd": F(-1.7).reshape(())},
    ),
    "power of integers": (
        "g (int64[N] x) => (int64[] y) { y = Pow (x, e) }",
        13,
        [np.arange(-3, 5)],
        {"e": np.array([5])},
    ),
    "layer norm over two axes": (
        "g (float[N, 3, 4] x) => (float[] y) { y = LayerNormalization <axis = 1> (x, g0, b0) }",
        17,
        [normal(2, 3, 4)],
        {"g0": normal(3, 4), "b0": normal(3, 4)},
    ),
    "layer norm with statistics": (
        "g (float[N, 4] x) => (float[] y, float[] m, float[] d) { y, m, d = LayerNormalization (x, g0) }",
        17,
        [normal(2, 4)],
        {"g0": normal(4)},
    ),
    "instance norm": (
        "g (float[N, 3, H, W] x) => (float[] y) { y = InstanceNormalization (x, g0, b0) }",
        13,
        [normal(2, 3, 4, 5)],
        {"g0": normal(3), "b0": normal(3)},
    ),
    "local response": (
        "g (float[N, 6, H, W] x) => (float[] y) { y = LRN <size = 3, alpha = 0.1, beta = 0.6, bias = 1.5> (x) }",
        13,
        [normal(2, 6, 3, 3)],
        {},
    ),
    "upper triangle": (
        "g (float[N, N] x) => (float[] y) { y = Trilu <upper = 1> (x, k) }",
        14,
        [normal(5, 5)],
        {"k": np.array(1)},
    ),
    "lower triangle of a whole batch": (
        "g (int64[2, 4, M] x) => (int64[] y) { y = Trilu <upper = 0> (x) }",
        14,
        [np.arange(24).reshape(2, 4, 3)],
        {},
    ),
    "one hot": (
        "g (int64[N] x) => (float[] y) { y = OneHot <axis = 0> (x, depth, values) }",
        11,
        [np.array([0, -1, 3, 2])],
        {"depth": np.array([4]), "values": F([0.5, 2])},
    ),
    "running sums": (
        "g (float[N, M] x) => (float[] a, float[] b) {"
        " a = CumSum <exclusive = 1> (x, axis)\n b = CumSum <reverse = 1, exclusive = 1> (x, axis) }",
        14,
        [normal(3, 5)],
        {"axis": np.array(1)},
    ),
    "tile": ("g (float[N, 2] x) => (float[] y) { y = Tile (x, r) }", 13, [normal(3, 2)], {"r": np.array([2, 3])}),
    "depth to space": (
        'g (float[N, 8, H, W] x) => (float[] y) { y = DepthToSpace <blocksize = 2, mode = "CRD"> (x) }',
        13,
        [normal(1, 8, 2, 3)],
        {},
    ),
    "slope of each channel": (
        "g (float[N, 3, H, W] x) => (float[] y) { y = PRelu (x, s) }",
        13,
        [normal(2, 3, 2, 2)],
        {"s": normal(3, 1, 1)},
    ),
    "last largest": (
        "g (float[N, 4] x) => (int64[] y) { y = ArgMax <axis = 1, select_last_index = 1, keepdims = 0> (x) }",
        13,
        [F([[1, 3, 3, 2], [5, 1, 5, 5]])],
        {},
    ),
    "scatter": (
        "g (float[N, 3] x, float[2, 3] u) => (float[] y) {"
        ' y = ScatterElements <axis = 0, reduction = "add"> (x, i, u) }',
        16,
        [normal(4, 3), normal(2, 3, seed=1)],
        {"i": np.array([[0, 1, 3], [2, 1, 0]])},
    ),
    "half floats": (
        "g (float16[N, 4] x) => (float16[] y) { z = MatMul (x, w)\n y = Tanh (z) }",
        13,
        [normal(3, 4).astype(np.float16)],
        {"w": normal(4, 2).astype(np.float16)},
    ),
}


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
    assert module.main.nodes[0].result.name == "_block.0_act_out"


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
    module = check(model(text, weights={"low": np.array(-3, F)}), normal(4, 4))
    assert "ew.le" in ops(module)
