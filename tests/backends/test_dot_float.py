"""Float layers with packed integer weights (`backends/kernels/dot_float.py`) against the interpreter on all levels."""

from __future__ import annotations

import numpy as np
import pytest

from nomul.backends.decoders import decoders
from nomul.backends.dot_codes import encodings_with_codes
from nomul.backends.registry import all_kernels
from nomul.backends.tir import byte_table
from nomul.ir.syntax import parse_encoding
from tests.backends.test_encoded import DEPTH, IMAGE, KERNEL, WIDTH, activations, check, conv, linear, weight
from tests.ir.encodings.test_low_bit import EXAMPLES
from tests.kernel_harness import CompiledKernel, compile_kernels, level, levels_for

LEVELS = levels_for(*byte_table.USES)
SERVED = [
    text
    for text in EXAMPLES
    if parse_encoding(text).is_integer and parse_encoding(text).name in encodings_with_codes() and "3of4" not in text
]
QUICK = ("int4<group=6, zero=1>", "bitplane<bits=2, group=32>", "codebook<entries=32>", "ternary<planes=2, group=32>")


def compiled(on: str, op: str, texts: tuple[str, ...]) -> list[CompiledKernel]:
    make = linear if op == "nn.linear" else conv
    runs = []
    for text in texts:
        encoding = parse_encoding(text)
        kernel = all_kernels()[f"{op}/{encoding.name}/vectors_unpacked"]
        runs += compile_kernels(kernel, [make(encoding)], level(on))
    return runs


def check_linear(on: str, texts: tuple[str, ...]) -> None:
    for number, (text, run) in enumerate(zip(texts, compiled(on, "nn.linear", texts), strict=True)):
        for rows in (1, 25, 67):
            x = activations(np.random.default_rng(rows), False, rows, DEPTH)
            w = weight(parse_encoding(text), number, WIDTH, DEPTH)
            check(run, x, w, act=False, exact=False, pieces=1 + rows % 3)


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    check_linear(on, QUICK if on == LEVELS[0] else QUICK[1:3])


@pytest.mark.slow
@pytest.mark.parametrize("text", SERVED)
@pytest.mark.parametrize("on", LEVELS)
def test_all_encodings(on: str, text: str) -> None:
    check_linear(on, (text,))


def test_conv2d() -> None:
    texts = ("int8<group=48>", "shift<terms=2, group=64>")
    for number, (text, run) in enumerate(zip(texts, compiled(LEVELS[0], "nn.conv2d", texts), strict=True)):
        w = weight(parse_encoding(text), number, WIDTH, IMAGE[3], *KERNEL)
        check(run, activations(np.random.default_rng(number), False, *IMAGE), w, act=False, exact=False, pieces=3)


def test_those_without_numbers_are_refused() -> None:
    assert set(encodings_with_codes()) <= set(decoders())
    kernel = all_kernels()["nn.linear/ternary/vectors_unpacked"]
    assert kernel.accepts(linear(parse_encoding("ternary<pack=3of4>"))) is not None
