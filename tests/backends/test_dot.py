"""Products of eight-bit rows with packed weights (`backends/kernels/dot.py`) against the interpreter on every level."""

from __future__ import annotations

import numpy as np
import pytest

from nomul.backends.dot_codes import encodings_with_codes
from nomul.backends.lower import lower_to_object
from nomul.backends.target import find_target
from nomul.ir.syntax import parse_encoding
from tests.backends.test_encoded import KERNEL, conv
from tests.dot_harness import (
    BEST,
    DEPTH,
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

QUICK = {
    BEST: (
        "int8<group=64>",
        "int4<group=12, zero=1>",
        "ternary<planes=3, group=32, tied=1>",
        "bitplane<bits=2, group=96>",
        "bitplane<bits=3, group=64, tied=1>",
        "codebook<entries=32, group=64>",
        "shift<terms=2, group=48>",
    )
}
FEW = ("int8<group=64>", "ternary<planes=2, group=32>", "bitplane<bits=2, group=32, tied=1>")
MORE = (
    "int8<zero=1, group=32>",
    "int4",
    "ternary<planes=1, pack=base3, scales=f32>",
    "ternary<planes=2, tied=1, group=64, scales=bf16>",
    "bitplane<bits=4, group=32>",
    "bitplane<bits=4, group=96, tied=1>",
    "bitplane<bits=1, group=24, tied=1>",
    "codebook<entries=16, group=24>",
    "shift<terms=1, pack=5bit, group=64>",
    "shift<terms=3, group=64>",
    "shift<terms=2, pack=sp2>",
    "int8<group=6>",
)


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    check_rows(on, QUICK.get(on, FEW), (1, 2, 7, 9, 67, 203))


@pytest.mark.slow
@pytest.mark.parametrize("text", [*MORE, *FEW, *QUICK[BEST]])
@pytest.mark.parametrize("on", LEVELS)
def test_all_encodings(on: str, text: str) -> None:
    check_rows(on, [text], (1, 2, 3, 4, 5, 8, 9, 24, 30, 67, 193), skip=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_drawn(seed: int) -> None:
    """200 cases each: levels, encodings, sizes; rows of every number to 67."""
    rng = np.random.default_rng(seed)
    texts = rng.permutation([*MORE, *FEW, *QUICK[BEST]])[:4]
    on = LEVELS[seed % len(LEVELS)]
    groups = []
    for text in texts:
        size = max(getattr(parse_encoding(text), "group", 0), 1)
        depth, width = size * int(rng.integers(1, 300 // size + 2)), int(rng.integers(1, 200))
        groups.append(linear(text, depth, width))
    for run in compiled(on, *groups):
        for case in range(50):
            check(run, int(rng.integers(1, 68)), 1000 * seed + case, exact=bool(case % 5), pieces=1 + case % 4)


@pytest.mark.parametrize("on", [BEST, LEVELS[-2]])
def test_conv2d(on: str) -> None:
    """Windows tap by tap (one scale in a row), in the order of groups, and pixels as they are."""
    pointwise = {"pads": (0, 0, 0, 0), "strides": (1, 1)}
    cases = [("int8", {}), ("int4<group=32>", {}), ("ternary<planes=2>", {"dilations": (2, 1)}), ("int8", pointwise)]
    groups = (
        conv(parse_encoding(text), act=True, kernel=(1, 1) if attrs is pointwise else KERNEL, **attrs)
        for text, attrs in cases
    )
    check_images(on, *groups)


@pytest.mark.parametrize("on", [BEST, LEVELS[-2]])
def test_narrow_layers(on: str) -> None:
    """Blocks of a single panel that have no columns are left out."""
    for run in compiled(on, *(linear("int4<group=32>", width=width) for width in (1, 12, 24, 33, 48))):
        for rows in (1, 5, 30):
            check(run, rows, rows, exact=True, pieces=2)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (8, 8), (40, 40)])
def test_fixed_numbers_of_rows(low: int, high: int) -> None:
    """Only the form that they need is there."""
    group = linear("int4<group=32>", ranges={"M": (low, high)})
    (run,) = compiled(BEST, group)
    check(run, high, 1, exact=True, pieces=2)


def test_large_sums() -> None:
    check_large_sums(("int8", "int4<zero=1>"), {9: -1, 10: 1})


def test_refusals() -> None:
    def reason(text: str, depth: int = DEPTH) -> str | None:
        return kernel_of(text).accepts(linear(text, depth))

    assert reason("ternary<pack=3of4>") == "four trits in five bits are looked up, not multiplied"
    assert reason("int8", 80000) == "sums of a group do not fit 32 bits"
    assert reason("int8<group=64>", 80000) is None


def test_every_example_has_a_kernel() -> None:
    """All integer encodings but those that are made of others, and those with looked-up trits."""
    for text in EXAMPLES:
        encoding = parse_encoding(text)
        if encoding.is_integer and encoding.name in encodings_with_codes() and "3of4" not in text:
            assert kernel_of(text).accepts(linear(text)) is None, text


def test_avx_vnni_is_assembled_without_avx512() -> None:
    (target,) = find_target("x86_64-linux+avxvnni")
    texts: list[str] = []
    group = linear("int4<group=32>", ranges={"M": (64, 64)})
    function = kernel_of("int4").build(group, target).function
    lower_to_object({"k": function}, target, lambda symbol, kind, text: texts.append(text if kind == "s" else ""))
    code = "\n".join(texts)
    assert "{vex}\tvpdpbusd" in code or "{vex} vpdpbusd" in code
    assert "zmm" not in code and "%ymm16" not in code and "%k1" not in code
