"""Quantised activations: what `act` means for linear layers and convolutions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir import interpreter
from nomul.ir.encodings import get_encoding
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.errors import NomulError
from nomul.ir.graph import Weight
from nomul.ir.ops.convolve import conv2d
from nomul.ir.ops.linear import linear
from nomul.ir.parser import parse_module
from nomul.ir.quantise import product, quantise
from nomul.ir.syntax import parse_encoding
from nomul.ir.text import print_module
from nomul.ir.types import DType, Tensor

ENCODINGS = [
    "int8<zero=1, group=16>",
    "ternary<planes=3, group=24>",
    "bitplane",
    "codebook<grid=e2m1>",
    "shift<terms=3, pack=5bit>",
    "nm<value=int4<group=12>>",
    "split<value=int8, rest=ternary<group=6>>",
]
WITHOUT_INTEGERS = ["f16", "nm", "split<columns=1>"]


def encoded(text: str, array: np.ndarray) -> EncodedArray:
    encoding = parse_encoding(text)
    return EncodedArray(encoding, encoding.pack(array), array.shape, np.dtype(np.float32))


def test_rows_are_rounded_to_even_with_scales_of_their_own() -> None:
    x = np.array([[127, 0.5, 1.5, -2.5, -127], [0, 0, 0, 0, 0], [1e-31, 0, 0, 0, 0], [254, 1, 3, 5, 0]], np.float32)
    q, scale = quantise(x, "i8", 0.0)
    assert q.dtype == np.int8 and scale.dtype == np.float32
    assert q.tolist() == [[127, 0, 2, -2, -127], [0] * 5, [0] * 5, [127, 0, 2, 2, 0]]
    assert scale.tolist() == [1, 0, 0, 2]


def test_a_fixed_scale_limits_what_is_too_large() -> None:
    q, scale = quantise(np.array([[1, 0.25, 0.75, -1000], [0, 0, 0, 64]], np.float32), "i8-static", 0.5)
    assert q.tolist() == [[2, 0, 2, -127], [0, 0, 0, 127]] and scale.tolist() == [0.5, 0.5]


def test_fewer_levels_make_coarser_integers() -> None:
    x = np.array([[127, 0.5, -2.5, -127], [0, 0, 0, 0], [84, 1, 3, 5]], np.float32)
    q, scale = quantise(x, "i8", 0.0, 42)
    assert q.tolist() == [[42, 0, -1, -42], [0] * 4, [42, 0, 2, 2]]
    assert scale.tolist() == [np.float32(127) / np.float32(42), 0, 2]
    assert quantise(x, "i8-static", 1.0, 42)[0].tolist() == [[42, 0, -2, -42], [0] * 4, [42, 1, 3, 5]]


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        ('act="i8", act_levels=0', "levels are 1 to 127"),
        ('act="i8", act_levels=128', "levels are 1 to 127"),
        ("act_levels=42", "means nothing with act='f32'"),
    ],
)
def test_levels_that_cannot_be(attrs: str, words: str) -> None:
    text = f"""nomul.ir 1
weight @w : f32[4, 8]
func @main(%x: f32[2, 8]) -> (f32[2, 4]) {{
  %y = nn.linear %x, @w {{{attrs}}} : f32[2, 4]
  return %y
}}
"""
    with pytest.raises(NomulError) as caught:
        parse_module(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("act", ["i8", "i8-static"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_give_nan(act: str, wrong: float) -> None:
    x = np.array([[1, 2, wrong], [1, 2, 3]], np.float32)
    for w in (np.ones((2, 3), np.float32), encoded("int8", np.ones((2, 3), np.float32))):
        y = linear.function(x, w, act=act, act_scale=1.0 if act == "i8-static" else 0.0)
        assert np.isnan(y[0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("text", ENCODINGS)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_sums_of_groups_are_exact_and_scaled_in_order(text: str, seed: int) -> None:
    """Against a loop in integers of unlimited size and single f32 operations."""
    rng = np.random.default_rng(seed)
    w = encoded(text, rng.normal(size=(3, 48)).astype(np.float32))
    q = rng.integers(-127, 128, (2, 48)).astype(np.int8)
    scale = rng.random(2).astype(np.float32)
    assert w.terms is not None
    for m in range(2):
        for n in range(3):
            y = np.float32(0)
            for term in w.terms:
                columns = np.arange(48) if term.columns is None else term.columns
                groups = np.split(np.arange(len(columns)), term.scale.shape[1])
                for group, members in enumerate(groups):
                    total = sum(int(q[m, columns[k]]) * int(term.codes[n, k]) for k in members)
                    y = y + np.float32(total) * term.scale[n, group]
            assert product(q, scale, w)[m, n] == y * scale[m]


def test_sums_beyond_the_integers_of_f32_stay_exact() -> None:
    weights = np.full((1, 4096), 127, np.float32)
    q = np.full((1, 4096), 127, np.int8)
    q[0, 0] = 126
    y = product(q, np.ones(1, np.float32), encoded("int8", weights))
    assert y[0, 0] == np.float32(127 * 127 * 4096 - 127)
    largest = encoded("shift<terms=3, pack=5bit, scales=f32>", np.full((1, 4096), 3.0, np.float32))
    assert product(q, np.ones(1, np.float32), largest)[0, 0] == np.float32(3 * (127 * 4096 - 1))


@pytest.mark.parametrize("text", [*ENCODINGS, *WITHOUT_INTEGERS])
def test_linear_is_the_product_of_the_quantised_input(text: str) -> None:
    rng = np.random.default_rng(1)
    x, bias = rng.normal(size=(2, 5, 48)).astype(np.float32), rng.normal(size=8).astype(np.float32)
    w = encoded(text, rng.normal(size=(8, 48)).astype(np.float32))
    assert (w.terms is None) == (text in WITHOUT_INTEGERS)
    for act, act_scale in (("i8", 0.0), ("i8-static", 0.03)):
        y = linear.function(x, w, bias, act=act, act_scale=act_scale)
        scale = np.abs(x).max(-1, keepdims=True) / 127 if act == "i8" else np.float64(act_scale)
        expected = (np.rint(x / scale).clip(-127, 127) * scale) @ w.dense.T.astype(np.float64) + bias
        np.testing.assert_allclose(y, expected, rtol=0, atol=0.02)
        assert y.dtype == np.float32
    np.testing.assert_allclose(linear.function(x, w, bias), x @ w.dense.T + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["int8<group=36>", "ternary<planes=2>", "nm", "f16"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_conv2d_is_the_convolution_of_the_quantised_images(text: str, groups: int, layout: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 8, 9, 7)).astype(np.float32) * np.array([1, 10], np.float32).reshape(2, 1, 1, 1)
    w = encoded(text, rng.normal(size=(6, 8 // groups, 3, 3)).astype(np.float32))
    attrs = {"strides": (2, 1), "pads": (1, 2, 0, 1), "dilations": (1, 2), "groups": groups}
    scale = np.abs(x).max((1, 2, 3), keepdims=True) / 127
    rounded = (np.rint(x * (1 / scale)) * scale).astype(np.float32)
    bias = rng.normal(size=6).astype(np.float32)
    expected = conv2d.function(rounded, w.dense, bias, **attrs)
    order = (0, 1, 2, 3) if layout == "nchw" else (0, 2, 3, 1)
    y = conv2d.function(x.transpose(order), w, bias, **attrs, layout=layout, act="i8")
    np.testing.assert_allclose(y, expected.transpose(order), rtol=0, atol=0.05)
    fixed = conv2d.function(x, w, bias, **attrs, act="i8-static", act_scale=10.0)
    assert np.abs(fixed - conv2d.function(np.rint(x / 10) * 10, w.dense, bias, **attrs)).max() < 0.05


def test_sixteen_bit_activations() -> None:
    x = np.random.default_rng(3).normal(size=(4, 16)).astype(np.float16)
    w = encoded("int8", np.eye(16, dtype=np.float32))
    y = linear.function(x, w, act="i8")
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, linear.function(x.astype(np.float32), w, act="i8").astype(np.float16))


TEXT = """nomul.ir 1
dim S in [1, 9]
weight @w : f32[4, 32] as ternary<planes=2, group=16>
func @main(%x: f32[S, 32]) -> (f32[S, 4]) {
  %y = call @layer(%x, @w) : f32[S, 4]
  return %y
}
func @layer(%x: f32[S, 32], %w: f32[4, 32] as ternary<planes=2, group=16>) -> (f32[S, 4]) {
  %y = nn.linear %x, %w {act="i8"} : f32[S, 4]
  return %y
}
"""


def test_the_interpreter_hands_encoded_weights_through_calls() -> None:
    module = parse_module(TEXT)
    assert print_module(module) == TEXT
    rng, encoding = np.random.default_rng(4), get_encoding("ternary", planes=2, group=16)
    fields = encoding.pack(rng.normal(size=(4, 32)).astype(np.float32))
    module.weights["w"].fields = fields
    x = rng.normal(size=(3, 32)).astype(np.float32)
    w = EncodedArray(encoding, fields, (4, 32), np.dtype(np.float32))
    (y,) = interpreter.run(module, x)
    np.testing.assert_array_equal(y, linear.function(x, w, act="i8"))
    assert not np.array_equal(y, x @ w.dense.T)


def test_ops_without_quantised_input_see_decoded_weights() -> None:
    text = TEXT.replace('nn.linear %x, %w {act="i8"} : f32[S, 4]', "nn.matmul %x, %t : f32[S, 4]")
    text = text.replace("  %y = nn.matmul", "  %t = view.transpose %w {perm=[1, 0]} : f32[32, 4]\n  %y = nn.matmul")
    module = parse_module(text)
    encoding = get_encoding("ternary", planes=2, group=16)
    weight = Weight("w", Tensor(DType.F32, module.weights["w"].shape, encoding), encoding.pack(np.ones((4, 32))))
    module.weights["w"].fields = weight.fields
    (y,) = interpreter.run(module, np.ones((2, 32), np.float32))
    np.testing.assert_allclose(y, np.full((2, 4), weight.array()[0].sum()), rtol=1e-6)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('{act="i4"}', "must be one of f32, i8, i8-static"),
        ('{act="i8-static"}', "needs a positive act_scale, not 0.0"),
        ('{act="i8-static", act_scale=-1.0}', "needs a positive act_scale, not -1.0"),
        ('{act="i8-static", act_scale=inf}', "needs a positive act_scale, not inf"),
        ('{act="i8", act_scale=1.0}', "act_scale=1.0 means nothing with act='i8'"),
        ("{act_scale=1.0}", "act_scale=1.0 means nothing with act='f32'"),
    ],
)
def test_wrong_attributes(attributes: str, message: str) -> None:
    with pytest.raises(NomulError) as caught:
        parse_module(TEXT.replace('{act="i8"}', attributes))
    assert message in str(caught.value)
