"""Forms and versions of ONNX operators, as small graphs with inputs: the cases of `test_onnx_operators.py`."""

from __future__ import annotations

import numpy as np
from onnx_models import normal

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
