"""Encoded weights of every kind in linear layers and convolutions, against the interpreter, on every level.

Where all scales are one, every sum is a small integer, so that results must be equal to the last bit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from nomul.backends.decoders import decoders
from nomul.backends.group import Group
from nomul.backends.registry import Kernel, all_kernels
from nomul.ir.dim import Dim
from nomul.ir.encodings import Encoding, all_encodings
from nomul.ir.encodings.half import SixteenBit
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import DType, Tensor
from tests.ir.encodings.test_low_bit import EXAMPLES
from tests.kernel_harness import (
    CompiledKernel,
    close,
    compile_kernels,
    level,
    level_names,
    make_group,
    reference,
)
from tests.portable_c_harness import c_kernels

DEPTH, WIDTH = 192, 37
ROW_COUNTS = (1, 2, 5, 24, 25, 67)
IMAGE, KERNEL = (2, 7, 9, 48), (2, 2)  # a window has DEPTH elements
GENERIC = "any/f32/generic"
LEVELS = [*((name, False) for name in level_names()), (level_names()[-1], True)]


def weight(encoding: Encoding, seed: int, *shape: int, exact: bool = False) -> EncodedArray:
    """Random weights; with exact=True all scales are one (offsets and kept floats too)."""
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    fields = encoding.pack(array)
    if exact:
        fields = {name: np.ones_like(field) if field.dtype.kind in "fV" else field for name, field in fields.items()}
    return EncodedArray(encoding, fields, shape, np.dtype(np.float32))


def type_of(encoding: Encoding, *shape: int) -> Tensor:
    return Tensor(DType.F32, tuple(Dim.of(size) for size in shape), encoding)


def linear(encoding: Encoding, depth: int = DEPTH, act: bool = False) -> Group:
    w, bias = type_of(encoding, WIDTH, depth), Tensor.of("f32", WIDTH)
    if not act:
        types = (Tensor.of("f32", "M", depth), w, bias)
        return make_group(lambda b, *xs: b.ew.relu(b.nn.linear(*xs)), *types, weights=(1, 2))
    types = (Tensor.of("i8", "M", depth), Tensor.of("f32", "M"), w, bias)
    return make_group(lambda b, *xs: b.ew.relu(b.nn.quantised_linear(*xs)), *types, weights=(2, 3))


def conv(encoding: Encoding, act: bool = False, kernel: tuple[int, int] = KERNEL, **attrs: Any) -> Group:
    n, _, w, c = IMAGE
    weights, bias = type_of(encoding, WIDTH, c, *kernel), Tensor.of("f32", WIDTH)
    attrs = {"layout": "nhwc", "pads": (1, 0, 0, 1), "strides": (1, 2), **attrs}
    image = Tensor.of("i8" if act else "f32", n, "H", w, c)
    if not act:
        return make_group(lambda b, *xs: b.nn.conv2d(*xs, **attrs), image, weights, bias, weights=(1, 2))
    types = (image, Tensor.of("f32", n), weights, bias)
    return make_group(lambda b, *xs: b.nn.quantised_conv2d(*xs, **attrs), *types, weights=(2, 3))


def activations(rng: np.random.Generator, act: bool, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8) if act else rng.standard_normal(shape).astype(np.float32)


def kernel_of(op: str, encoding: Encoding) -> Kernel:
    name = "integers" if "quantised" in op else "unpacked"
    return all_kernels()[f"{op}/{encoding.name}/{name}"]


def examples(act: bool) -> list[str]:
    return [text for text in EXAMPLES if not act or parse_encoding(text).is_integer]


@cache
def compiled(make: Any, on: str, act: bool, generic: bool) -> dict[str, CompiledKernel]:
    """The kernels of all examples in one library (for each encoding one call, as each has a kernel of its own)."""
    op = {linear: "linear", conv: "conv2d"}[make]
    found: dict[str, CompiledKernel] = {}
    for name in decoders():
        texts = [text for text in examples(act) if parse_encoding(text).name == name]
        groups = [make(parse_encoding(text), act=act) for text in texts]
        op_name = f"nn.quantised_{op}" if act else f"nn.{op}"
        kernel = all_kernels()[GENERIC] if generic else kernel_of(op_name, parse_encoding(name))
        assert all(kernel.accepts(group) is None for group in groups)
        found |= dict(zip(texts, compile_kernels(kernel, groups, level(on)), strict=True))
    return found


def check(run: CompiledKernel, x: np.ndarray, w: EncodedArray, act: bool, exact: bool, pieces: int) -> None:
    rng = np.random.default_rng(len(x))
    bias = rng.integers(-9, 9, WIDTH).astype(np.float32)
    scales = np.ones(len(x), np.float32) if exact else rng.random(len(x)).astype(np.float32)
    inputs = [x, scales, w, bias] if act else [x, w, bias]
    (got,), (expected,) = run(*inputs, pieces=pieces), reference(run.group, inputs)
    if exact and act:
        np.testing.assert_array_equal(got, expected)
    else:
        close(got, expected, 2e-6 if act else 1e-5)


@pytest.mark.parametrize("act", [False, True], ids=["f32", "i8"])
@pytest.mark.parametrize(("on", "generic"), LEVELS)
def test_linear(on: str, generic: bool, act: bool) -> None:
    for number, (text, run) in enumerate(compiled(linear, on, act, generic).items()):
        encoding = parse_encoding(text)
        for rows in (ROW_COUNTS[-1], ROW_COUNTS[number % len(ROW_COUNTS)]):
            for exact in (False, True):
                x = activations(np.random.default_rng(rows), act, rows, DEPTH)
                check(run, x, weight(encoding, number, WIDTH, DEPTH, exact=exact), act, exact, pieces=1 + rows % 3)


@pytest.mark.parametrize("act", [False, True], ids=["f32", "i8"])
@pytest.mark.parametrize(("on", "generic"), LEVELS)
def test_conv2d(on: str, generic: bool, act: bool) -> None:
    for number, (text, run) in enumerate(compiled(conv, on, act, generic).items()):
        w = weight(parse_encoding(text), number, WIDTH, IMAGE[3], *KERNEL, exact=True)
        for pieces in (1, 4):
            check(run, activations(np.random.default_rng(number), act, *IMAGE), w, act, True, pieces)


FEW = [next(text for text in EXAMPLES[::-1] if parse_encoding(text).name == name) for name in decoders()]


@pytest.mark.parametrize("act", [False, True], ids=["f32", "i8"])
def test_portable_c(act: bool) -> None:
    """Without a warning, and without undefined behaviour."""
    texts = [text for text in FEW if not act or parse_encoding(text).is_integer]
    groups = [make(parse_encoding(text), act=act) for text in texts for make in (linear, conv)]
    kernels = iter(c_kernels(groups))
    for text in texts:
        for shape, weights in (((5, DEPTH), (WIDTH, DEPTH)), (IMAGE, (WIDTH, IMAGE[3], *KERNEL))):
            x = activations(np.random.default_rng(1), act, *shape)
            check(next(kernels), x, weight(parse_encoding(text), 1, *weights, exact=True), act, True, pieces=3)


@pytest.mark.parametrize("act", [False, True], ids=["f32", "i8"])
@pytest.mark.parametrize("on", ["aarch64-linux+dotprod", "arm-linux"])
def test_other_machines(on: str, act: bool) -> None:
    for number, text in enumerate(text for text in FEW if not act or parse_encoding(text).is_integer):
        encoding = parse_encoding(text)
        kernel = kernel_of("nn.quantised_linear" if act else "nn.linear", encoding)
        (run,) = compile_kernels(kernel, [linear(encoding, act=act)], level(on))
        x = activations(np.random.default_rng(number), act, 29, DEPTH)
        check(run, x, weight(encoding, number, WIDTH, DEPTH, exact=True), act, True, pieces=2)


@pytest.mark.parametrize("on", level_names())
@pytest.mark.parametrize(
    "attrs",
    [{"lead": 1}, {"lead": 2}, {"lead": 1, "act": "i8-static", "act_scale": 0.03}, {"lead": 1, "levels": 42}],
    ids=str,
)
@pytest.mark.parametrize("kernel", ["nn.quantise/f32/rows", GENERIC])
def test_quantise(on: str, attrs: dict[str, Any], kernel: str) -> None:
    """Integers and scales to the last bit: also of rows that are zero, nearly so, large, or not finite."""
    group = make_group(lambda b, x: tuple(b.node("nn.quantise", x, **attrs).results), Tensor.of("f32", "B", "M", 45))
    (run,) = compile_kernels(all_kernels()[kernel], [group], level(on))
    x = np.random.default_rng(3).standard_normal((3, 7, 45)).astype(np.float32)
    x[0, 0] = np.arange(45) + 0.5
    x[0, 0, 0] = 127
    x[0, 1:4] *= np.array([0, 1e-31, 1e30], np.float32)[:, None]
    x[1, 2, 3], x[2, 4, 44] = np.nan, -np.inf
    for got, expected in zip(run(x, pieces=2), reference(group, [x]), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_every_encoding_has_kernels_for_linear_and_conv2d() -> None:
    low_bit = {name for name, kind in all_encodings().items() if not issubclass(kind, SixteenBit)}
    assert low_bit == set(decoders()) == {parse_encoding(text).name for text in EXAMPLES}
    kernels = all_kernels().values()
    for op in ("nn.linear", "nn.conv2d"):
        assert set(all_encodings()) <= {kernel.encoding for kernel in kernels if kernel.op == op}
    for op in ("nn.quantised_linear", "nn.quantised_conv2d"):
        assert low_bit == {kernel.encoding for kernel in kernels if kernel.op == op}
