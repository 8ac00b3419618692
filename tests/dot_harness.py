"""Runs kernels of dot products (`backends/kernels/dot*.py`) on every level, and compares them with the interpreter.

With all scales one, every sum is an integer that f32 holds, so that results must be equal to the last bit; buffers end
where a page that cannot be read begins (`kernel_harness`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from nomul.backends.group import Group
from nomul.backends.registry import Kernel, all_kernels
from nomul.backends.target import find_target
from nomul.backends.tir import byte_table, dot
from nomul.ir.dim import Range
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import Tensor
from tests.backends.test_encoded import IMAGE, activations, type_of, weight
from tests.kernel_harness import CompiledKernel, close, level, levels_for, link, make_group, reference

DEPTH, WIDTH = 192, 101
VEX = "v3_vnni"  # AVX-VNNI: its instructions run here in the form of AVX-512
LEVELS = list(dict.fromkeys([*levels_for(*dot.USES, *byte_table.USES), VEX]))
BEST = LEVELS[0]
_KERNELS = {
    "nn.linear": "packed_floats",
    "nn.conv2d": "packed_floats",
    "nn.quantised_linear": "bytes_product",
    "nn.quantised_conv2d": "bytes_product",
}


def linear(text: str, depth: int = DEPTH, width: int = WIDTH, ranges: dict[str, Range] | None = None) -> Group:
    w, bias = type_of(parse_encoding(text), width, depth), Tensor.of("f32", width)
    types = (Tensor.of("i8", "M", depth), Tensor.of("f32", "M"), w, bias)
    return make_group(lambda b, *xs: b.ew.relu(b.nn.quantised_linear(*xs)), *types, weights=(2, 3), ranges=ranges or {})


def encoding_of(group: Group) -> Encoding:
    """Of the only encoded weights."""
    (found,) = (param.type.encoding for param in group.func.params if param.type.encoding is not None)
    return found


def kernel_of(text: str, op: str = "nn.quantised_linear") -> Kernel:
    name = parse_encoding(text).name
    return all_kernels()[f"{op}/{name}/{'sparse_product' if name == 'nm' else _KERNELS[op]}"]


def compiled(on: str, *groups: Group) -> tuple[CompiledKernel, ...]:
    """Kernels in one library; skips the test where this machine does not run the level."""
    if on == VEX and "v4_vnni" not in LEVELS:
        pytest.skip("this machine has no AVX-512 VNNI, whose 256-bit form stands for AVX-VNNI")
    target = find_target("x86-64-v3-vnni")[0] if on == VEX else level(on)
    built = [
        kernel_of(str(encoding_of(group)), group.anchor.op).build(group, target) for group in groups if group.anchor
    ]
    runs_on = level("v4_vnni") if on == VEX else level(on)
    entries = link({f"k{i}": one.function for i, one in enumerate(built)}, runs_on)
    return tuple(
        CompiledKernel(g, b, runs_on, entries[f"k{i}"]) for i, (g, b) in enumerate(zip(groups, built, strict=True))
    )


def check(run: CompiledKernel, rows: int, seed: int, exact: bool, pieces: int) -> None:
    """A linear layer with random rows and weights."""
    rng, w_type = np.random.default_rng(seed), run.group.func.params[2]
    width, depth = (int(size) for size in w_type.shape)
    w = weight(encoding_of(run.group), seed, width, depth, exact=exact)
    scales = np.ones(rows, np.float32) if exact else rng.random(rows).astype(np.float32)
    inputs = [activations(rng, True, rows, depth), scales, w, rng.integers(-9, 9, width).astype(np.float32)]
    (got,), (expected,) = run(*inputs, pieces=pieces), reference(run.group, inputs)
    if exact:
        np.testing.assert_array_equal(got, expected)
    else:
        close(got, expected, 2e-6)


def check_rows(on: str, texts: Sequence[str], counts: Sequence[int], skip: bool = True) -> None:
    """Linear layers of all encodings with so many rows; every second count, in turns, where `skip`."""
    for number, run in enumerate(compiled(on, *map(linear, texts))):
        for rows in counts[number % 2 :: 2] if skip else counts:
            check(run, rows, rows, exact=True, pieces=1 + rows % 4)
        check(run, 25, 4, exact=False, pieces=2)
        check(run, 3, 5, exact=False, pieces=1)


def check_images(on: str, *groups: Group) -> None:
    """Convolutions of whole numbers."""
    for number, run in enumerate(compiled(on, *groups)):
        rng, w_type = np.random.default_rng(number), run.group.func.params[2].type
        w = weight(encoding_of(run.group), number, *(int(size) for size in w_type.shape), exact=True)
        image = run.group.func.params[0].shape
        shape = (IMAGE[0], *IMAGE[1:3], int(image[-1]))
        inputs = [activations(rng, True, *shape), np.array([1, 2], np.float32), w]
        inputs.append(rng.integers(-9, 9, w.shape[0]).astype(np.float32))
        for pieces in (1, 3):
            np.testing.assert_array_equal(run(*inputs, pieces=pieces)[0], reference(run.group, inputs)[0])


def check_large_sums(texts: Sequence[str], signs: Mapping[int, int]) -> None:
    """The largest products of all encodings' bytes, in one sign. signs: of rows, by their number."""
    for run in compiled(BEST, *(linear(text, 4096, 64) for text in texts)):
        encoding = encoding_of(run.group)
        fields = encoding.pack(np.ones((64, 4096), np.float32))
        fields["scale"] = np.ones_like(fields["scale"])
        w = EncodedArray(encoding, fields, (64, 4096), np.dtype(np.float32))
        for rows, sign in signs.items():
            inputs: list[Any] = [np.full((rows, 4096), sign * 127, np.int8), np.ones(rows, np.float32), w]
            inputs.append(np.zeros(64, np.float32))
            np.testing.assert_array_equal(run(*inputs)[0], reference(run.group, inputs)[0])
