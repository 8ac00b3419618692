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
from tests.backends.test_encoded import type_of, weight
from tests.kernel_harness import CompiledKernel, close, compile_kernels, level, levels_for, link, make_group, reference

LEVELS = levels_for(*USES)
ROW_COUNTS = (1, 2, 3, 4, 7, 31, 32, 33, 67)
FOURS = ("ternary<group=128, pack=3of4>", "ternary<pack=3of4>", "ternary<planes=2, group=48, pack=3of4, scales=f32>")
TRIPLES = ("ternary<group=96>", "ternary<planes=2, pack=base3>", "ternary<planes=3, group=128, scales=bf16>")
FIVES = ("bitplane<bits=2, group=128>", "bitplane<bits=1, group=64>", "bitplane<bits=4, scales=f32>")
CASES = [
    *((text, levels) for text in FOURS for levels in (127, 42)),
    *((text, 42) for text in TRIPLES),
    *((text, levels) for text in FIVES for levels in (127, 25)),
]
SIZES = dict.fromkeys([*FOURS, *TRIPLES, *FIVES], (131, 768)) | {"ternary<pack=3of4>": (70, 1400)}  # of the weights
STRIPS = (4500, 128)  # 36 tiles


def linear(encoding: Encoding, rows: int, columns: int, levels: int) -> Group:
    weights = (type_of(encoding, rows, columns), Tensor.of("f32", rows))
    types = (Tensor.of("i8", "M", columns), Tensor.of("f32", "M"), *weights)
    return make_group(lambda b, *xs: b.ew.relu(b.nn.quantised_linear(*xs, levels=levels)), *types, weights=(2, 3))


def kernel_for(text: str) -> Kernel:
    return all_kernels()[f"nn.quantised_linear/{parse_encoding(text).name}/look_up"]


@cache
def compiled(on: str) -> dict[tuple[str, int], CompiledKernel]:
    groups = {case: linear(parse_encoding(case[0]), *SIZES[case[0]], case[1]) for case in CASES}
    assert all(kernel_for(text).accepts(group) is None for (text, _), group in groups.items())
    built = {case: kernel_for(case[0]).build(group, level(on)) for case, group in groups.items()}
    entries = link({f"k{number}": one.function for number, one in enumerate(built.values())}, level(on))
    runs = zip(CASES, entries.values(), strict=True)
    return {case: CompiledKernel(groups[case], built[case], level(on), entry) for case, entry in runs}


def check(run: CompiledKernel, w: EncodedArray, q: np.ndarray, exact: bool, pieces: int) -> None:
    rng = np.random.default_rng(len(q))
    scales = np.ones(len(q), np.float32) if exact else rng.random(len(q)).astype(np.float32)
    inputs = [q, scales, w, rng.integers(-9, 9, w.shape[0]).astype(np.float32)]
    (got,), (expected,) = run(*inputs, pieces=pieces), reference(run.group, inputs)
    if exact:
        np.testing.assert_array_equal(got, expected)
    else:
        close(got, expected, 2e-6)


def integers(rng: np.random.Generator, levels: int, rows: int, columns: int) -> np.ndarray:
    return rng.integers(-levels, levels + 1, (rows, columns)).astype(np.int8)


@pytest.mark.parametrize("on", LEVELS)
def test_linear(on: str) -> None:
    for number, ((text, levels), run) in enumerate(compiled(on).items()):
        for rows in ROW_COUNTS[number % 4 :: 4]:
            w = weight(parse_encoding(text), number, *SIZES[text], exact=rows % 4 != 3)
            q = integers(np.random.default_rng(rows), levels, rows, SIZES[text][1])
            check(run, w, q, rows % 4 != 3, pieces=1 + rows % 3)


@pytest.mark.parametrize("on", LEVELS)
def test_largest_sums(on: str) -> None:
    """Every activation has the largest magnitude and the sign of its weight: no sum may overflow."""
    for (text, levels), run in compiled(on).items():
        w = weight(parse_encoding(text), 5, *SIZES[text], exact=True)
        assert w.terms is not None
        codes = w.terms[-1].codes[0]
        signs = 2 * codes - 1 if text in FIVES else np.sign(codes)
        q = np.where(signs == 0, levels, signs * levels).astype(np.int8)
        check(run, w, np.stack([q, -q] * 3), True, pieces=1)


@pytest.mark.parametrize("on", LEVELS)
def test_strips(on: str) -> None:
    """Weights of two strips: runs of tiles end where a strip does, wherever a thread begins."""
    texts = ("ternary<group=64, pack=3of4>", "bitplane<bits=1, group=64>")
    layers = [linear(parse_encoding(text), *STRIPS, 127) for text in texts]
    built = [kernel_for(text).build(layer, level(on)) for text, layer in zip(texts, layers, strict=True)]
    entries = link({f"k{number}": one.function for number, one in enumerate(built)}, level(on))
    for text, layer, one, entry in zip(texts, layers, built, entries.values(), strict=True):
        for rows, pieces in ((1, 3), (9, 1), (9, 5)):
            q = integers(np.random.default_rng(rows), 127, rows, STRIPS[1])
            w = weight(parse_encoding(text), rows, *STRIPS, exact=True)
            check(CompiledKernel(layer, one, level(on), entry), w, q, True, pieces)


@pytest.mark.slow
@pytest.mark.parametrize("on", LEVELS)
@pytest.mark.parametrize(("text", "levels"), CASES)
def test_drawn(on: str, text: str, levels: int) -> None:
    """80 cases: ten kernels of drawn sizes, eight numbers of rows each."""
    rng, encoding = np.random.default_rng(7), parse_encoding(text)
    drawn = []
    for _ in range(10):
        rows, groups = int(rng.integers(64, 300)), int(rng.integers(1, 6))
        drawn.append((rows, groups * (getattr(encoding, "group", 0) or 4 * int(rng.integers(1, 200)))))
    layers = [linear(encoding, *sizes, levels) for sizes in drawn]
    for sizes, run in zip(drawn, compile_kernels(kernel_for(text), layers, level(on)), strict=True):
        for _ in range(8):
            w = weight(encoding, int(rng.integers(1 << 30)), *sizes, exact=True)
            check(run, w, integers(rng, levels, int(rng.integers(1, 68)), sizes[1]), True, int(rng.integers(1, 5)))


@pytest.mark.parametrize(("text", "sizes"), [*SIZES.items(), ("bitplane<bits=1, group=64>", STRIPS)])
def test_layout(text: str, sizes: tuple[int, int]) -> None:
    """The words, read as the layout's drawing says, are the codes of the weights."""
    w = weight(parse_encoding(text), 3, *sizes)
    order = lut32.order_of(w.encoding, w.shape)
    data = _by_tile(lut32.pack_encoded(w)["data"], order)
    assert w.terms is not None
    for plane, term in enumerate(w.terms[-order.planes :]):
        words = order.offset_bytes + plane * order.record_bytes + order.scale_bytes * 128
        record = data[..., words:][..., : order.words * 256]
        words = np.ascontiguousarray(record).view(np.uint16).reshape(order.tiles, order.groups, order.words, 128)
        rows = words.reshape(*words.shape[:-1], 4, 16, 2).swapaxes(-1, -2).reshape(words.shape)
        means = lut32.entries(order.columns)
        columns = np.concatenate([means[index] for index in _indices(rows, order)], axis=-1)[..., : order.group_columns]
        codes = columns.transpose(0, 2, 1, 3).reshape(-1, order.depth)[: order.rows]
        np.testing.assert_array_equal((codes + 1) // 2 if text in FIVES else codes, term.codes)


def _by_tile(data: np.ndarray, order: lut32.Order) -> np.ndarray:
    """[tiles, groups, bytes]"""
    strips = [range(order.tiles)[first : first + order.strip] for first in range(0, order.tiles, order.strip)]
    starts = np.cumsum([len(strip) * order.tile_bytes for strip in strips])[:-1]
    shaped = [
        part.reshape(order.groups, len(strip), order.group_bytes).swapaxes(0, 1)
        for strip, part in zip(strips, np.split(data, starts), strict=True)
    ]
    return np.concatenate(shaped)


def _indices(words: np.ndarray, order: lut32.Order) -> list[np.ndarray]:
    """[tiles, groups, 128] each."""
    found: list[Any] = []
    for unit in range(order.units):
        five = words[:, :, unit * 5 : unit * 5 + 5]
        found += [five[:, :, word] >> 5 * position & 31 for word in range(5) for position in range(3)]
        found.append(sum((five[:, :, word] >> 15) << (4 - word) for word in range(5)))
    tail = words[:, :, order.units * 5 :]
    return found + [tail[:, :, number // 3] >> 5 * (number % 3) & 31 for number in range(order.tail)]


def test_refusals() -> None:
    def reason(text: str, rows: int = 128) -> str | None:
        return refusal(linear(parse_encoding(text), rows, 256, 127))

    assert reason("ternary<pack=3of4>") is None and reason("ternary") is None and reason("bitplane<bits=2>") is None
    assert "planes of trits" in str(reason("ternary<planes=2, tied=1>"))
    assert "64 rows" in str(reason("ternary<pack=3of4>", 63))
