"""Bit planes, and the reference errors of their first scales (`N(0, 1)` weights, groups of 128)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.tied_planes import levels


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.600), (2, 0.502), (3, 0.214)])
def test_reference_errors(bits: int, expected: float) -> None:
    """bits=1: the published 0.600 is of levels symmetric about zero; two free means are a little better."""
    weights = np.random.default_rng(0).normal(size=(512, 128)).astype(np.float32)
    encoding = Bitplane(bits)
    decoded = encoding.unpack(encoding.pack(weights), weights.shape)
    error = np.linalg.norm(decoded - weights) / np.linalg.norm(weights)
    assert error == pytest.approx(expected, abs=0.008)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4))
def test_representable_weights_are_exact(seed: int, bits: int) -> None:
    """Uniform levels of which both ends are used."""
    encoding, rng = Bitplane(bits, group=20), np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (3, 2, 20))
    codes[..., 0], codes[..., 1] = 0, 2**bits - 1
    step, offset = rng.integers(1, 100, (2, 3, 2, 1)) / 64
    weights = (codes * step - offset).astype(np.float32).reshape(3, 40)
    np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), (3, 40)), weights)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4))
def test_codes_are_the_nearest_for_given_scales(seed: int, bits: int) -> None:
    encoding, rng = Bitplane(bits, group=4), np.random.default_rng(seed)
    matrix = rng.normal(size=(2, 8))
    scales = {"scale": rng.normal(size=(bits, 2, 2)).astype(np.float32), "offset": rng.normal(size=(2, 2))}
    parts = encoding.nearest(matrix, scales)
    subsets = (np.arange(2**bits)[:, None] >> np.arange(bits)) & 1
    levels = (np.einsum("cp,png->cng", subsets, scales["scale"]) + scales["offset"]).repeat(4, axis=-1)
    least = np.abs(levels - matrix).min(axis=0)
    np.testing.assert_allclose(np.abs(encoding.values(parts) - matrix), least, atol=1e-5)


def test_packed_bytes() -> None:
    packed = Bitplane().pack(np.array([[0, 1, 2, 3, 0, 0, 0, 0, 3]], np.float32))
    assert packed["bits"].tolist() == [[[0b1010, 1], [0b1100, 1]]]
    assert (packed["scale"].tolist(), packed["offset"].tolist()) == ([[[1], [2]]], [[0]])


def test_groups_of_equal_weights() -> None:
    weights = np.repeat(np.array([[0, 2.5], [-1, 0.75]], np.float32), 8, axis=1)
    for bits in (1, 2, 3, 4):
        encoding = Bitplane(bits, group=8)
        np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), weights.shape), weights)


def test_bits_per_weight() -> None:
    assert Bitplane(2, group=128).bits_per_weight((8, 1280)) == 2.375
    assert Bitplane(3, group=128).bits_per_weight((8, 1280)) == 3.5
    assert Bitplane(1).bits_per_weight((8, 9)) == (16 + 32) / 9


def test_what_is_refused() -> None:
    for bits in (0, 5):
        with pytest.raises(ValueError, match="bits must be one of 1, 2, 3, 4"):
            Bitplane(bits)
    parts = {"bits": np.array([[[0, 2]]], np.uint8), "scale": np.ones((1, 1, 1)), "offset": np.ones((1, 1))}
    with pytest.raises(ValueError, match="bits from 0 to 2 are outside 0 to 1"):
        Bitplane(1).assemble(parts, (1, 2))


# -- tied planes ---------------------------------------------------------------------------------------------------
@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4), negative=st.booleans())
def test_tied_planes_hold_integers_exactly(seed: int, bits: int, negative: bool) -> None:
    """Scales that are integers times a power of two, of which the largest weight is 127."""
    encoding, rng = Bitplane(bits, group=20, tied=1), np.random.default_rng(seed)
    scale = rng.integers(1, 32, (bits, 3, 2)).astype(np.float64)
    offset = 127 - scale.sum(axis=0)
    if negative:
        scale, offset = -scale, -offset
    parts = encoding.scale_parts(scale / 64, offset / 64)
    np.testing.assert_array_equal(parts["ratio"], np.abs(scale))
    np.testing.assert_array_equal(parts["base"], (-127 if negative else offset))
    matrix = rng.choice(np.concatenate([offset.ravel(), (offset + scale[0]).ravel()]), (3, 40)) / 64
    packed = encoding.assemble(encoding.nearest(matrix, parts), (3, 40))
    (term,) = encoding.integer_terms(packed, (3, 40))
    assert term.codes.dtype == np.int8
    np.testing.assert_array_equal(encoding.unpack(packed, (3, 40)), term.codes * term.scale.repeat(20, axis=1))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4), scales=st.sampled_from(["f16", "bf16", "f32"]))
def test_tied_scales_are_near_the_given_ones(seed: int, bits: int, scales: str) -> None:
    """Each of them, and the offset, by half a step; negative ones are turned round."""
    encoding, rng = Bitplane(bits, group=4, tied=1, scales=scales), np.random.default_rng(seed)
    scale, offset = rng.normal(size=(bits, 6, 2)), 3 * rng.normal(size=(6, 2))
    size = 10.0 ** rng.integers(-3 if scales == "f16" else -6, 4)
    parts = encoding.scale_parts(scale * size, offset * size)
    found, base = encoding.real_scales(parts)
    half = parts["scale"].astype(np.float64) * 0.501
    assert (np.abs(found - np.abs(scale) * size) <= half).all()
    assert (np.abs(base - (offset + scale.clip(max=0).sum(axis=0)) * size) <= half).all()
    top = parts["base"].astype(int) + parts["ratio"].sum(axis=0, dtype=int)
    assert parts["base"].min() >= -127 and top.max() <= 127
    assert scales == "f16" or np.maximum(np.abs(parts["base"].astype(int)), np.abs(top)).min() >= 120


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4))
def test_levels_are_what_codes_mean(seed: int, bits: int) -> None:
    encoding, rng = Bitplane(bits, group=16, tied=1), np.random.default_rng(seed)
    parts = encoding.scale_parts(rng.normal(size=(bits, 2, 3)), rng.normal(size=(2, 3)))
    bit = rng.integers(0, 2, (bits, 2, 48)).astype(np.uint8)
    codes = (bit.astype(int) << np.arange(bits)[:, None, None]).sum(axis=0).reshape(2, 3, 16)
    expected = np.take_along_axis(levels(parts), codes, axis=-1).reshape(2, 48) * parts["scale"].repeat(16, axis=-1)
    np.testing.assert_array_equal(encoding.values({"bits": bit, **parts}), expected.astype(np.float32))


def test_bytes_of_tied_planes() -> None:
    encoding = Bitplane(group=128, tied=1)
    assert encoding.bits_per_weight((8, 1280)) == 2 + 40 / 128
    packed = encoding.pack(np.linspace(-1, 1, 128, dtype=np.float32)[None])
    assert {name: field.dtype.name for name, field in packed.items()} == {
        "bits": "uint8",
        "scale": "float16",
        "ratio": "uint8",
        "base": "int8",
    }
    assert (packed["ratio"].tolist(), packed["base"].tolist()) == ([[[85], [169]]], [[-127]])


def test_what_tied_planes_refuse() -> None:
    with pytest.raises(ValueError, match="tied must be one of 0, 1, not 2"):
        Bitplane(tied=2)
    encoding = Bitplane(tied=1)
    parts = encoding.parts(encoding.pack(np.eye(2, dtype=np.float32)), (2, 2))
    with pytest.raises(ValueError, match="weights from 0 to 128 times their scale are outside -127 to 127"):
        encoding.assemble({**parts, "ratio": np.full((2, 2, 1), 64), "base": np.zeros((2, 1))}, (2, 2))
    with pytest.raises(ValueError, match="the ratio -1 is negative"):
        encoding.assemble({**parts, "ratio": np.full((2, 2, 1), -1)}, (2, 2))
