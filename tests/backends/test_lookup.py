"""Planes of few bits by look-ups, against the interpreter, on every level: integer sums must be equal to the last bit.

Where all scales are one, every sum is a small integer, so that no tolerance can hide a wrong one."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from nomul.backends.group import Group
from nomul.backends.kernels.lookup import USES, refusal
from nomul.backends.layouts import lut32
from nomul.backends.registry import Kernel, all_kernels
from nomul.ir.encodings import Encoding
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import Tensor
from tests.backends.test_encoded import activations, type_of, weight
from tests.kernel_harness import CompiledKernel, close, compile_kernels, level, levels_for, make_group, reference

LEVELS = levels_for(*USES)
ROW_COUNTS = (1, 2, 3, 4, 7, 31, 32, 33, 67)
FOURS = ("ternary<group=128, pack=3of4>", "ternary<pack=3of4>", "ternary<planes=2, group=48, pack=3of4, scales=f32>")
ENCODINGS = FOURS
SIZES = dict.fromkeys(ENCODINGS, (131, 768)) | {"ternary<pack=3of4>": (70, 1000)}  # rows, columns of the weights


def linear(encoding: Encoding, rows: int, columns: int) -> Group:
    types = (Tensor.of("i8", "M", columns), Tensor.of("f32", "M"), type_of(encoding, rows, columns))
    types = (*types, Tensor.of("f32", rows))
    return make_group(lambda b, *xs: b.ew.relu(b.nn.quantised_linear(*xs)), *types, weights=(2, 3))


def kernel_of(encoding: Encoding) -> Kernel:
    return all_kernels()[f"nn.quantised_linear/{encoding.name}/look_up"]


@cache
def compiled(on: str) -> dict[str, CompiledKernel]:
    found: dict[str, CompiledKernel] = {}
    for name in {parse_encoding(text).name for text in ENCODINGS}:
        texts = [text for text in ENCODINGS if parse_encoding(text).name == name]
        groups = [linear(parse_encoding(text), *SIZES[text]) for text in texts]
        assert all(kernel_of(parse_encoding(name)).accepts(group) is None for group in groups)
        found |= dict(zip(texts, compile_kernels(kernel_of(parse_encoding(name)), groups, level(on)), strict=True))
    return found


def check(run: CompiledKernel, w: EncodedArray, q: np.ndarray, exact: bool, pieces: int) -> None:
    rng = np.random.default_rng(len(q))
    scales = np.ones(len(q), np.float32) if exact else rng.random(len(q)).astype(np.float32)
    inputs = [q, scales, w, rng.integers(-9, 9, w.shape[0]).astype(np.float32)]
    (got,), (expected,) = run(*inputs, pieces=pieces), reference(run.group, inputs)
    if exact:
        np.testing.assert_array_equal(got, expected)
    else:
        close(got, expected, 2e-6)


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    for number, (text, run) in enumerate(compiled(on).items()):
        for rows in ROW_COUNTS[number % 2 :: 2]:
            w = weight(parse_encoding(text), number, *SIZES[text], exact=rows % 4 != 3)
            q = activations(np.random.default_rng(rows), True, rows, SIZES[text][1])
            check(run, w, q, rows % 4 != 3, pieces=1 + rows % 3)


@pytest.mark.parametrize("on", LEVELS)
def test_largest_sums(on: str) -> None:
    """Every activation has the largest magnitude and the sign of its weight: no sum may overflow."""
    for text, run in compiled(on).items():
        w = weight(parse_encoding(text), 5, *SIZES[text], exact=True)
        signs = np.sign(w.dense[0])
        q = np.where(signs == 0, 127, signs * 127).astype(np.int8)
        check(run, w, np.stack([q, -q] * 3), True, pieces=1)


@pytest.mark.slow
@pytest.mark.parametrize("on", LEVELS)
@pytest.mark.parametrize("text", ENCODINGS)
def test_drawn(on: str, text: str) -> None:
    """A thousand drawn cases an encoding and level."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        rows, groups = int(rng.integers(64, 300)), int(rng.integers(1, 6))
        encoding = parse_encoding(text)
        columns = groups * (getattr(encoding, "group", 0) or 4 * int(rng.integers(1, 200)))
        (run,) = compile_kernels(kernel_of(encoding), [linear(encoding, rows, columns)], level(on))
        for _ in range(25):
            w = weight(encoding, int(rng.integers(1 << 30)), rows, columns, exact=True)
            q = activations(rng, True, int(rng.integers(1, 68)), columns)
            check(run, w, q, True, pieces=int(rng.integers(1, 5)))


@pytest.mark.parametrize("text", ENCODINGS)
def test_layout(text: str) -> None:
    """The words, read as the layout's drawing says, are the codes of the weights."""
    w = weight(parse_encoding(text), 3, *SIZES[text])
    order = lut32.order_of(w.encoding, w.shape)
    data = lut32.pack_encoded(w)["data"].reshape(order.blocks, order.groups, order.group_bytes)
    assert w.terms is not None
    for plane, term in enumerate(w.terms[-order.planes :]):
        record = data[..., plane * order.record_bytes :][..., : order.words * 64]
        words = np.ascontiguousarray(record).view(np.uint16).reshape(order.blocks, order.groups, order.words, 32)
        rows = words.reshape(*words.shape[:-1], 16, 2).swapaxes(-1, -2).reshape(words.shape)
        means = lut32.entries(order.columns)
        columns = np.concatenate([means[index] for index in _indices(rows, order)], axis=-1)[..., : order.group_columns]
        codes = columns.transpose(0, 2, 1, 3).reshape(-1, order.depth)[: order.rows]
        np.testing.assert_array_equal(codes, term.codes)


def _indices(words: np.ndarray, order: lut32.Order) -> list[np.ndarray]:
    """[blocks, groups, 32] each."""
    found: list[Any] = []
    for unit in range(order.units):
        five = words[:, :, unit * 5 : unit * 5 + 5]
        found += [five[:, :, word] >> 5 * position & 31 for word in range(5) for position in range(3)]
        found.append(sum((five[:, :, word] >> 15) << (4 - word) for word in range(5)))
    tail = words[:, :, order.units * 5 :]
    return found + [tail[:, :, number // 3] >> 5 * (number % 3) & 31 for number in range(order.tail)]


def test_refusals() -> None:
    assert refusal(linear(parse_encoding("ternary<pack=3of4>"), 128, 256)) is None
    assert "three of four" in str(refusal(linear(parse_encoding("ternary<planes=2, tied=1>"), 128, 256)))
    assert "64 rows" in str(refusal(linear(parse_encoding("ternary<pack=3of4>"), 63, 256)))
