"""Products of eight-bit rows with N of M weights (`backends/kernels/dot_sparse.py`), on every level."""

from __future__ import annotations

import numpy as np
import pytest

from nomul.backends.dot_codes.sparse import WINDOW, SparseShape
from nomul.backends.group import Group
from nomul.backends.kernels.dot_sparse import shape_of
from nomul.backends.layouts.nm64 import pack_encoded
from nomul.ir.syntax import parse_encoding
from tests.backends.test_encoded import conv, weight
from tests.dot_harness import (
    BEST,
    LEVELS,
    check,
    check_images,
    check_large_sums,
    check_rows,
    compiled,
    kernel_of,
    linear,
)
from tests.ir.encodings.test_low_bit import EXAMPLES

FEW = ("nm<n=2, m=4, value=int8<group=32>>", "nm<n=2, m=3, value=ternary>")
QUICK = {
    BEST: (
        *FEW,
        "nm<n=1, m=4, value=int4<group=24, zero=1>>",
        "nm<n=4, m=8, value=int4<group=48>>",
        "nm<n=3, m=16, value=codebook<entries=32, group=18>>",
        "nm<n=3, m=4, value=shift<terms=2, group=36>>",
    )
}
MORE = (
    "nm<n=1, m=2, value=int8<zero=1, group=16>>",
    "nm<n=1, m=3, value=int8>",
    "nm<n=2, m=6, value=int4>",
    "nm<n=8, m=16, value=int4<group=32>>",
    "nm<n=15, m=16, value=ternary<planes=2, group=15>>",
    "nm<n=1, m=8, value=ternary<planes=3, tied=1>>",
    "nm<n=1, m=16, value=codebook<group=6>>",
    "nm<n=5, m=12, value=shift<terms=1, pack=5bit, group=20>>",
    "nm<n=2, m=4, value=int4<group=32, scales=bf16>>",
    "nm<n=2, m=4, value=shift<terms=1>>",
)
ALL = tuple(dict.fromkeys([*MORE, *QUICK[BEST]]))


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    check_rows(on, QUICK.get(on, FEW), (1, 2, 3, 4, 7, 67))


@pytest.mark.slow
@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("on", LEVELS)
def test_all_encodings(on: str, text: str) -> None:
    check_rows(on, [text], (1, 2, 3, 4, 5, 8, 24, 30, 67, 193), skip=False)


def drawn(rng: np.random.Generator) -> Group:
    """A layer of odd sizes: n of m of any value encoding, groups of a few blocks."""
    m = int(rng.integers(2, WINDOW + 1))
    n = int(rng.integers(1, m))
    blocks, groups = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    values = ("int8<group={}>", "int4<group={}, zero=1>", "ternary<group={}>", "codebook<group={}>", "int4<group={}>")
    value = values[int(rng.integers(len(values)))].format(n * blocks)
    return linear(f"nm<n={n}, m={m}, value={value}>", m * blocks * groups, int(rng.integers(1, 200)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_drawn(seed: int) -> None:
    """200 cases each: levels, encodings, sizes; rows of every number to 67."""
    rng = np.random.default_rng(seed)
    on = LEVELS[seed % len(LEVELS)]
    for run in compiled(on, *(drawn(rng) for _ in range(4))):
        for case in range(50):
            rows = int(rng.integers(1, 6 if case % 2 else 68))
            check(run, rows, 1000 * seed + case, exact=bool(case % 5), pieces=1 + case % 4)


def test_conv2d() -> None:
    """Windows in the order of their columns, and pixels as they are."""
    pointwise = {"pads": (0, 0, 0, 0), "strides": (1, 1)}
    check_images(
        BEST,
        conv(parse_encoding("nm<n=2, m=4, value=int8>"), act=True),
        conv(parse_encoding("nm<n=2, m=3, value=int4<group=32>>"), act=True, kernel=(1, 1), **pointwise),
    )


def test_large_sums() -> None:
    check_large_sums(("nm<value=int8>", "nm<n=3, m=4, value=int4<zero=1>>"), {1: -1, 9: 1})


@pytest.mark.parametrize(("value", "bits"), [("int8", (5, 2.5, 5.5, 2.75, 3)), ("int4", (3, 1.5, 3.5, 1.75, 2))])
def test_bits_of_packed_weights(value: str, bits: tuple[float, ...]) -> None:
    """Of codes and places, empty ones too."""
    for (n, m), expected in zip(((2, 4), (1, 4), (4, 8), (1, 8), (1, 16)), bits, strict=True):
        encoding = linear(f"nm<n={n}, m={m}, value={value}<group=128>>", 4096, 64).func.params[2].type.encoding
        assert encoding is not None
        fields = pack_encoded(weight(encoding, 0, 64, 4096))
        assert 8 * (fields["codes"].nbytes + fields["places"].nbytes) / (64 * 4096) == expected


@pytest.mark.parametrize("m", range(2, WINDOW + 1))
def test_units(m: int) -> None:
    """Kept weights, their places and all columns have equally many whole units."""
    for n in range(1, m):
        w = linear(f"nm<n={n}, m={m}, value=int4<group={3 * n}>>", 12 * m, 64).func.params[2]
        shape: SparseShape = shape_of(w)
        assert shape.window <= WINDOW and shape.dwords * 4 >= shape.blocks * n
        assert shape.kept.units == shape.places.units == shape.dense.units
        assert shape.dense.unit % 4 == 0


def test_refusals() -> None:
    def reason(text: str, depth: int = 192) -> str | None:
        return kernel_of(text, "nn.quantised_linear").accepts(linear(text, depth))

    assert reason("nm<value=bitplane>") == "offsets of the kept weights are terms of their own"
    assert reason("nm<value=ternary<pack=3of4>>") == "four trits in five bits are looked up, not multiplied"
    assert reason("nm<value=int8>", 80000) == "sums of a group do not fit 32 bits"
    assert reason("nm") == "the weights have no integer form"


def test_every_example_has_a_kernel() -> None:
    for text in EXAMPLES:
        encoding = parse_encoding(text)
        if encoding.name == "nm" and encoding.is_integer and "bitplane" not in text:
            assert kernel_of(text).accepts(linear(text)) is None, text
