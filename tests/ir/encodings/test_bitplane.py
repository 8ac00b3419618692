"""Bit planes, and the reference errors of their first scales (`N(0, 1)` weights, groups of 128)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings.bitplane import Bitplane


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
