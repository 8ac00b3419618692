"""Salient columns and the rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings import get_encoding
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.integer import Int4, Int8
from nomul.ir.encodings.split import Split
from nomul.ir.encodings.ternary import Ternary


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_each_side_is_its_encoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(5, 40)).astype(np.float32)
    salient = np.sort(rng.choice(40, 8, replace=False))
    weights[:, salient] *= 100
    encoding = Split(0.2, Int8(), Ternary(2))
    packed = encoding.pack(weights)
    assert packed["salient"].tolist() == salient.tolist()
    decoded = encoding.unpack(packed, weights.shape)
    others = np.delete(np.arange(40), salient)
    for columns, side in ((salient, Int8()), (others, Ternary(2))):
        alone = weights[:, columns]
        np.testing.assert_array_equal(decoded[:, columns], side.unpack(side.pack(alone), alone.shape))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_rest_is_binary_with_scales_of_rows_and_columns(seed: int) -> None:
    """PTQ1.61: r2_j (alpha_i s_ij + mu_i)."""
    rng = np.random.default_rng(seed)
    encoding = Split(0.25, columns=1)
    packed = encoding.pack(rng.normal(size=(6, 32)).astype(np.float32))
    parts = encoding.parts(packed, (6, 32))
    alpha = parts["rest_scale"][0] / 2
    sign = 2.0 * parts["rest_bits"][0] - 1
    rest = parts["column_scale"] * (alpha * sign + parts["rest_offset"] + alpha)
    decoded = np.delete(encoding.unpack(packed, (6, 32)), packed["salient"], axis=1)
    np.testing.assert_allclose(decoded, rest, rtol=1e-5, atol=1e-6)
    assert encoding.integer_terms(packed, (6, 32)) is None


def test_column_scales_help_where_columns_differ() -> None:
    rng = np.random.default_rng(0)
    weights = (rng.choice([-1, 1], (32, 64)) * np.exp(rng.normal(size=64))).astype(np.float32)
    errors = []
    for columns in (0, 1):
        encoding = Split(columns=columns)
        errors.append(np.linalg.norm(encoding.unpack(encoding.pack(weights), weights.shape) - weights))
    assert errors[1] < 0.5 * errors[0]


def test_the_number_of_salient_columns() -> None:
    assert Split(0.2).salient_count(384) == 77
    assert Split(0.2, Int4(group=32)).salient_count(384) == 64
    assert Split(0.2, Int4(group=32), Bitplane(1, 48)).salient_count(384) == 96
    assert Split(0.001).salient_count(384) == 1


def test_bits_per_weight() -> None:
    rows, columns = 64, 640
    stored = 128 * 4 + 512 * 1 + 3 * 16 + 128 * 32 / rows
    assert Split(0.2).bits_per_weight((rows, columns)) == stored / columns
    assert Split(0.2, columns=1).bits_per_weight((rows, columns)) == (stored + 512 * 16 / rows) / columns


def test_what_is_refused() -> None:
    for parameters in ({"salient": 0.0}, {"salient": 1.0}, {"value": Split()}, {"rest": get_encoding("f16")}):
        with pytest.raises(ValueError, match=r"salient|value|rest"):
            Split(**parameters)
    with pytest.raises(ValueError, match="1 salient of 1 columns leave no rest"):
        Split().pack(np.ones((4, 1), np.float32))
    with pytest.raises(ValueError, match="group=32 does not divide 68 columns"):
        Split(0.3, Int4(group=32), Bitplane(1, 32)).field_types((4, 100))
    encoding = Split(0.25)
    parts = encoding.parts(encoding.pack(np.ones((2, 8), np.float32)), (2, 8))
    for salient in ([1, 0], [1, 1], [1]):
        with pytest.raises(ValueError, match="2 salient columns in ascending order"):
            encoding.assemble(parts | {"salient": np.array(salient)}, (2, 8))
    with pytest.raises(ValueError, match="salient columns from 0 to 8 are outside 0 to 7"):
        encoding.assemble(parts | {"salient": np.array([0, 8])}, (2, 8))
