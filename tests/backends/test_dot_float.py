"""Float layers with packed integer weights (`backends/kernels/dot_float.py`) against the interpreter on all levels."""

from __future__ import annotations

import numpy as np
import pytest

from nomul.backends.decoders import decoders
from nomul.backends.dot_codes import encodings_with_codes
from nomul.ir.syntax import parse_encoding
from tests.backends.test_encoded import DEPTH, IMAGE, KERNEL, WIDTH, activations, check, conv, linear, weight
from tests.dot_harness import BEST, LEVELS, compiled, kernel_of
from tests.ir.encodings.test_low_bit import EXAMPLES
from tests.kernel_harness import reference

SERVED = [
    text
    for text in EXAMPLES
    if parse_encoding(text).is_integer and parse_encoding(text).name in encodings_with_codes() and "3of4" not in text
]
QUICK = (
    "int4<group=6, zero=1>",
    "bitplane<bits=2, group=32>",
    "bitplane<bits=3, tied=1>",
    "codebook<entries=32>",
    "ternary<planes=2, group=32>",
)


def check_linear(on: str, texts: tuple[str, ...], counts: tuple[int, ...]) -> None:
    groups = (linear(parse_encoding(text)) for text in texts)
    for number, (text, run) in enumerate(zip(texts, compiled(on, *groups), strict=True)):
        for rows in counts:
            x = activations(np.random.default_rng(rows), False, rows, DEPTH)
            w = weight(parse_encoding(text), number, WIDTH, DEPTH)
            check(run, x, w, act=False, exact=False, pieces=1 + rows % 3)


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    check_linear(on, QUICK if on == BEST else QUICK[1:3], (1, 2, 25))


@pytest.mark.slow
@pytest.mark.parametrize("text", SERVED)
@pytest.mark.parametrize("on", LEVELS)
def test_all_encodings(on: str, text: str) -> None:
    check_linear(on, (text,), (1, 2, 3, 4, 7, 24, 25, 67))


@pytest.mark.parametrize("on", LEVELS)
def test_few_rows_are_as_precise_as_sums_in_f32(on: str) -> None:
    """Also where one element is a thousand times as large as all others, and for eight bits, all of a byte."""
    texts = ("int8", "codebook<entries=32>")
    for text, run in zip(texts, compiled(on, *(linear(parse_encoding(text)) for text in texts)), strict=True):
        x = np.random.default_rng(0).standard_normal((3, DEPTH)).astype(np.float32)
        x[1, 5] *= 1000
        x[2] *= np.float32(2.0**-70)
        w = weight(parse_encoding(text), 1, WIDTH, DEPTH)
        exact = np.maximum(x.astype(np.float64) @ w.dense.astype(np.float64).T, 0)
        (got,) = run(x, w, np.zeros(WIDTH, np.float32))
        assert (np.abs(got - exact).max(1) < 2.0**-22 * np.abs(exact).max(1)).all()


def test_extreme_rows() -> None:
    """The largest and least numbers; a row that is not finite gives NaN, and only that row."""
    encoding = parse_encoding("int4<group=32>")
    (run,) = compiled(BEST, linear(encoding))
    w, bias = weight(encoding, 1, WIDTH, DEPTH), np.zeros(WIDTH, np.float32)
    x = np.random.default_rng(0).standard_normal((6, DEPTH)).astype(np.float32)
    x[0] *= np.float32(1e35)
    x[1] *= np.float32(1e-38)
    x[2] = 0
    x[3, 7], x[4, 190] = np.inf, np.nan
    (got,), (expected,) = run(x, w, bias, pieces=3), reference(run.group, [x, w, bias])
    for row, tolerance in ((0, 1e35 * 1e-4), (1, 1e-33), (2, 0), (5, 1e-4)):
        np.testing.assert_allclose(got[row], expected[row], atol=tolerance, rtol=0)
    assert np.isnan(got[3:5]).all()


@pytest.mark.parametrize(("low", "high"), [(1, 1), (24, 24), (40, 40)])
def test_fixed_numbers_of_rows(low: int, high: int) -> None:
    """Only the form that they need is there."""
    encoding = parse_encoding("ternary<group=32>")
    group = linear(encoding)
    group.ranges["M"] = (low, high)
    (run,) = compiled(BEST, group)
    x = activations(np.random.default_rng(1), False, high, DEPTH)
    check(run, x, weight(encoding, 1, WIDTH, DEPTH), act=False, exact=False, pieces=2)


def test_conv2d() -> None:
    texts = ("int8<group=48>", "shift<terms=2, group=64>")
    groups = (conv(parse_encoding(text)) for text in texts)
    for number, (text, run) in enumerate(zip(texts, compiled(BEST, *groups), strict=True)):
        w = weight(parse_encoding(text), number, WIDTH, IMAGE[3], *KERNEL)
        check(run, activations(np.random.default_rng(number), False, *IMAGE), w, act=False, exact=False, pieces=3)


def test_those_without_numbers_are_refused() -> None:
    assert set(encodings_with_codes()) <= set(decoders())
    assert kernel_of("ternary", "nn.linear").accepts(linear(parse_encoding("ternary<pack=3of4>"))) is not None
