"""int8 and int4."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings import get_encoding
from nomul.ir.encodings.integer import Int4, Int8


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), zero=st.integers(0, 1), bits=st.sampled_from((4, 8)))
def test_representable_weights_are_exact(seed: int, zero: int, bits: int) -> None:
    """Weights on a grid that reaches one end of the range (with a zero point: both ends)."""
    encoding = get_encoding(f"int{bits}", zero=zero, group=16)
    rng, (low, high) = np.random.default_rng(seed), encoding.limits  # type: ignore[attr-defined]
    codes = rng.integers(low, high + 1, (3, 2, 16))
    codes[..., 0], codes[..., 1] = low, high
    point = rng.integers(low, high + 1, (3, 2, 1)) if zero else 0
    scale = np.float16(rng.uniform(0.001, 3, (3, 2, 1))).astype(np.float32)
    weights = ((codes - point) * scale).astype(np.float32).reshape(3, 32)
    np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), (3, 32)), weights)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), zero=st.integers(0, 1), bits=st.sampled_from((4, 8)))
def test_errors_are_at_most_half_a_step(seed: int, zero: int, bits: int) -> None:
    encoding = get_encoding(f"int{bits}", zero=zero, scales="f32")
    weights = np.random.default_rng(seed).normal(size=(4, 50)).astype(np.float32)
    packed = encoding.pack(weights)
    errors = np.abs(encoding.unpack(packed, weights.shape) - weights)
    assert (errors <= packed["scale"] * (0.5 + 1e-5 + 0.5 * zero)).all()  # a rounded zero point may clip half a step


def test_packed_bytes() -> None:
    packed = Int4(group=4).pack(np.array([[7, -8, 1, 0, 3.5, -4, 0, 0.5]], np.float32))
    assert packed["codes"].tolist() == [[0x0F, 0x89, 0x0F, 0x98]]
    assert packed["scale"].tolist() == [[1, 0.5]]
    packed = Int8(zero=1).pack(np.array([[0, 255, 100]], np.float32))
    assert [packed[name].tolist() for name in ("codes", "zero", "scale")] == [[[0, 255, 100]], [[0]], [[1]]]


def test_bits_per_weight() -> None:
    assert Int8().bits_per_weight((8, 256)) == 8 + 16 / 256
    assert Int4(group=32).bits_per_weight((8, 256)) == 4.5
    assert Int4(group=32, zero=1).bits_per_weight((8, 256)) == 4.5 + 4 / 32
    assert Int4(scales="f32").bits_per_weight((8, 3)) == (16 + 32) / 3


def test_codes_outside_the_range() -> None:
    encoding = Int4()
    parts = encoding.parts(encoding.pack(np.ones((2, 4), np.float32)), (2, 4))
    with pytest.raises(ValueError, match="codes from 7 to 8 are outside -8 to 7"):
        parts["codes"][0, 0] = 8
        encoding.assemble(parts, (2, 4))
