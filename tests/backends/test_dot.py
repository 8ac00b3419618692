"""Products of eight-bit rows with packed weights (`backends/kernels/dot.py`), against the interpreter, on every level.

With all scales one, every sum is an integer that f32 holds, so that results must be equal to the last bit; buffers end
where a page that cannot be read begins (`kernel_harness`)."""

from __future__ import annotations

import numpy as np
import pytest

from nomul.backends.dot_codes import encodings_with_codes
from nomul.backends.group import Group
from nomul.backends.lower import lower_to_object
from nomul.backends.registry import Kernel, all_kernels
from nomul.backends.target import find_target
from nomul.backends.tir import byte_table, dot
from nomul.ir.dim import Range
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import Tensor
from tests.backends.test_encoded import IMAGE, KERNEL, activations, conv, type_of, weight
from tests.ir.encodings.test_low_bit import EXAMPLES
from tests.kernel_harness import CompiledKernel, close, level, levels_for, link, make_group, reference

DEPTH, WIDTH = 192, 101
VEX = "v3_vnni"  # AVX-VNNI: its instructions run here in the form of AVX-512
LEVELS = list(dict.fromkeys([*levels_for(*dot.USES, *byte_table.USES), VEX]))
BEST = LEVELS[0]
QUICK = {
    BEST: (
        "int8<group=64>",
        "int4<group=12, zero=1>",
        "ternary<planes=3, group=32, tied=1>",
        "bitplane<bits=2, group=96>",
        "codebook<entries=32, group=64>",
        "shift<terms=2, group=48>",
    )
}
FEW = ("int8<group=64>", "ternary<planes=2, group=32>")
MORE = (
    "int8<zero=1, group=32>",
    "int4",
    "ternary<planes=1, pack=base3, scales=f32>",
    "ternary<planes=2, tied=1, group=64, scales=bf16>",
    "bitplane<bits=4, group=32>",
    "codebook<entries=16, group=24>",
    "shift<terms=1, pack=5bit, group=64>",
    "shift<terms=3, group=64>",
    "shift<terms=2, pack=sp2>",
    "int8<group=6>",
)


def linear(text: str, depth: int = DEPTH, width: int = WIDTH, ranges: dict[str, Range] | None = None) -> Group:
    w, bias = type_of(parse_encoding(text), width, depth), Tensor.of("f32", width)
    types = (Tensor.of("i8", "M", depth), Tensor.of("f32", "M"), w, bias)
    return make_group(lambda b, *xs: b.ew.relu(b.nn.quantised_linear(*xs)), *types, weights=(2, 3), ranges=ranges or {})


def kernel_of(text: str, op: str = "nn.quantised_linear") -> Kernel:
    name = parse_encoding(text).name
    return all_kernels()[f"{op}/{name}/{'sparse_product' if name == 'nm' else 'bytes_product'}"]


def compiled(on: str, *groups: Group) -> tuple[CompiledKernel, ...]:
    """Kernels in one library."""
    target = find_target("x86-64-v3-vnni")[0] if on == VEX else level(on)
    built = [
        kernel_of(str(group.func.params[2].type.encoding), group.anchor.op).build(group, target)
        for group in groups
        if group.anchor
    ]
    runs_on = level("v4_vnni") if on == VEX else level(on)
    entries = link({f"k{i}": one.function for i, one in enumerate(built)}, runs_on)
    return tuple(
        CompiledKernel(g, b, runs_on, entries[f"k{i}"]) for i, (g, b) in enumerate(zip(groups, built, strict=True))
    )


def check(run: CompiledKernel, rows: int, seed: int, exact: bool, pieces: int) -> None:
    rng = np.random.default_rng(seed)
    width, depth = (int(size) for size in run.group.func.params[2].shape)
    encoding = run.group.func.params[2].type.encoding
    assert encoding is not None
    w: EncodedArray = weight(encoding, seed, width, depth, exact=exact)
    scales = np.ones(rows, np.float32) if exact else rng.random(rows).astype(np.float32)
    inputs = [activations(rng, True, rows, depth), scales, w, rng.integers(-9, 9, width).astype(np.float32)]
    (got,), (expected,) = run(*inputs, pieces=pieces), reference(run.group, inputs)
    if exact:
        np.testing.assert_array_equal(got, expected)
    else:
        close(got, expected, 2e-6)


def runnable(on: str) -> None:
    if on == VEX and "v4_vnni" not in LEVELS:
        pytest.skip("this machine has no AVX-512 VNNI, whose 256-bit form stands for AVX-VNNI")


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    runnable(on)
    for number, run in enumerate(compiled(on, *map(linear, QUICK.get(on, FEW)))):
        for rows in (1, 2, 7, 9, 67, 203)[number % 2 :: 2]:
            check(run, rows, rows, exact=True, pieces=1 + rows % 3)
        check(run, 25, 4, exact=False, pieces=2)


@pytest.mark.slow
@pytest.mark.parametrize("text", [*MORE, *FEW, *QUICK[BEST]])
@pytest.mark.parametrize("on", LEVELS)
def test_all_encodings(on: str, text: str) -> None:
    runnable(on)
    for run in compiled(on, linear(text)):
        for rows in (1, 2, 3, 4, 5, 8, 9, 24, 30, 67, 193):
            check(run, rows, rows, exact=rows != 30, pieces=1 + rows % 4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(25))
def test_drawn(seed: int) -> None:
    """200 cases each: levels, encodings, sizes; rows of every number to 67."""
    rng = np.random.default_rng(seed)
    texts = rng.permutation([*MORE, *FEW, *QUICK[BEST]])[:4]
    on = LEVELS[seed % len(LEVELS)]
    runnable(on)
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
    groups = [
        conv(parse_encoding(text), act=True, kernel=(1, 1) if attrs is pointwise else KERNEL, **attrs)
        for text, attrs in cases
    ]
    for number, run in enumerate(compiled(on, *groups)):
        rng = np.random.default_rng(number)
        w_type = run.group.func.params[2].type
        assert w_type.encoding is not None
        w = weight(w_type.encoding, number, *(int(size) for size in w_type.shape), exact=True)
        bias = rng.integers(-9, 9, w.shape[0]).astype(np.float32)
        inputs = [activations(rng, True, *IMAGE), np.array([1, 2], np.float32), w, bias]
        for pieces in (1, 3):
            np.testing.assert_array_equal(run(*inputs, pieces=pieces)[0], reference(run.group, inputs)[0])


@pytest.mark.parametrize(("low", "high"), [(1, 1), (8, 8), (40, 40)])
def test_fixed_numbers_of_rows(low: int, high: int) -> None:
    """Only the form that they need is there."""
    group = linear("int4<group=32>", ranges={"M": (low, high)})
    (run,) = compiled(BEST, group)
    check(run, high, 1, exact=True, pieces=2)


def test_large_sums() -> None:
    """The largest products of all encodings' bytes, in one sign."""
    for run in compiled(BEST, linear("int8", 4096, 64), linear("int4<zero=1>", 4096, 64)):
        encoding = run.group.func.params[2].type.encoding
        assert encoding is not None
        fields = encoding.pack(np.ones((64, 4096), np.float32))
        fields["scale"] = np.ones_like(fields["scale"])
        w = EncodedArray(encoding, fields, (64, 4096), np.dtype(np.float32))
        for sign in (-127, 127):
            inputs = [np.full((9, 4096), sign, np.int8), np.ones(9, np.float32), w, np.zeros(64, np.float32)]
            np.testing.assert_array_equal(run(*inputs)[0], reference(run.group, inputs)[0])


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
