"""Layers with N of M floats (`backends/kernels/nm_float.py`) against the interpreter on every level."""

from __future__ import annotations

import numpy as np
import pytest

from nomul.backends.layouts.nm_float32 import pack_encoded
from nomul.backends.registry import all_kernels
from nomul.ir.syntax import parse_encoding
from tests.backends.test_encoded import DEPTH, IMAGE, KERNEL, WIDTH, activations, check, conv, linear, weight
from tests.kernel_harness import compile_kernels, every_level, level, level_names

TEXTS = (
    "nm",
    "nm<n=1, m=4, value=f16>",
    "nm<n=2, m=3, value=bf16>",
    "nm<n=3, m=4>",
    "nm<n=1, m=16, value=f16>",
    "nm<n=5, m=12>",
    "nm<n=15, m=16, value=f16>",
    "nm<n=1, m=2>",
)
ODD = 3 * 15  # blocks of three columns, an odd number of them


@pytest.mark.parametrize("on", every_level())
def test_linear(on: str) -> None:
    cases = [(text, DEPTH) for text in TEXTS] + [("nm<n=1, m=3>", ODD), ("nm<n=1, m=15, value=f16>", ODD)]
    groups = [linear(parse_encoding(text), depth) for text, depth in cases]
    runs = compile_kernels(all_kernels()["nn.linear/nm/sparse_floats"], groups, level(on))
    for number, ((text, depth), run) in enumerate(zip(cases, runs, strict=True)):
        for rows in (1, 2, 3, 7, 8, 25, 4)[number % 2 :: 2]:
            x = activations(np.random.default_rng(rows), False, rows, depth)
            w = weight(parse_encoding(text), number, WIDTH, depth)
            check(run, x, w, act=False, exact=False, pieces=1 + rows % 3)


@pytest.mark.parametrize("on", level_names()[:1])
def test_conv2d(on: str) -> None:
    texts = ("nm", "nm<n=1, m=4, value=f16>")
    groups = [conv(parse_encoding(text)) for text in texts]
    runs = compile_kernels(all_kernels()["nn.conv2d/nm/sparse_floats"], groups, level(on))
    for number, (text, run) in enumerate(zip(texts, runs, strict=True)):
        w = weight(parse_encoding(text), number, WIDTH, IMAGE[3], *KERNEL)
        check(run, activations(np.random.default_rng(number), False, *IMAGE), w, act=False, exact=False, pieces=3)


@pytest.mark.parametrize(("text", "bits"), [("nm", 18), ("nm<value=f16>", 10), ("nm<n=1, value=f16>", 5)])
def test_bits_of_packed_weights(text: str, bits: float) -> None:
    fields = pack_encoded(weight(parse_encoding(text), 0, 64, 4096))
    assert 8 * sum(field.nbytes for field in fields.values()) / (64 * 4096) == bits


def test_integers_have_other_kernels() -> None:
    accepts = all_kernels()["nn.linear/nm/sparse_floats"].accepts
    assert accepts(linear(parse_encoding("nm<value=int8>"))) == "the kept weights are no floats"
    assert accepts(linear(parse_encoding("nm"))) is None
