"""N of M sparsity."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings import get_encoding
from nomul.ir.encodings.bitplane import Bitplane
from nomul.ir.encodings.integer import Int4, Int8
from nomul.ir.encodings.nm import Nm
from nomul.ir.encodings.split import Split
from nomul.ir.encodings.ternary import Ternary


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_any_n_of_m_keeps_the_largest(seed: int, data: st.DataObject) -> None:
    m = data.draw(st.integers(2, 16))
    n = data.draw(st.integers(1, m - 1))
    weights = np.random.default_rng(seed).normal(size=(3, 2 * m)).astype(np.float32)
    encoding = Nm(n, m)
    decoded = encoding.unpack(encoding.pack(weights), weights.shape)
    assert encoding.width == (comb(m, n) - 1).bit_length()
    for row, kept in zip(weights.reshape(-1, m), decoded.reshape(-1, m), strict=True):
        largest = np.argsort(-np.abs(row))[:n]
        expected = np.zeros(m, np.float32)
        expected[largest] = row[largest]
        np.testing.assert_array_equal(kept, expected)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_representable_weights_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for value, codes in ((Int8(), rng.integers(1, 128, (2, 8))), (Ternary(), np.ones((2, 8)))):
        codes[:, 0] = codes.max() if value == Ternary() else 127
        kept = codes * rng.choice([-1, 1], (2, 8))
        weights = np.zeros((2, 8, 4))
        np.put_along_axis(weights, rng.integers(0, 4, (2, 8, 1)), kept[..., None], axis=-1)
        weights = (weights.reshape(2, 32) * np.float16(rng.uniform(0.1, 1))).astype(np.float32)
        encoding = Nm(1, 4, value)
        np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), (2, 32)), weights)


def test_packed_bytes() -> None:
    weights = np.array([[0, 3, 0, -4, 5, 6, 0, 1]], np.float32)
    packed = Nm().pack(weights)
    assert packed["values"].tolist() == [[3, -4, 5, 6]]
    assert packed["pattern"].tolist() == [[4 | 0 << 3]]  # 01 02 03 12 13 23
    assert Nm().parts(packed, (1, 8))["kept"].tolist() == [[1, 3, 0, 1]]


def test_bits_per_weight() -> None:
    shape = (8, 1024)
    assert Nm().bits_per_weight(shape) == 16.75
    assert Nm(value=Int8()).bits_per_weight(shape) == 4.75 + 16 / 1024
    assert Nm(1, 4, Int4()).bits_per_weight(shape) == 1.5 + 16 / 1024
    assert Nm(value=Ternary()).bits_per_weight(shape) == 1.75 + 16 / 1024
    assert Nm(4, 8).bits_per_weight(shape) == 16 + 7 / 8


def test_f32_can_be_named() -> None:
    assert Nm.from_text({"n": "1", "value": "f32"}) == Nm(1) == get_encoding("nm", n=1)


def test_what_is_refused() -> None:
    for n, m in ((0, 4), (4, 4), (5, 4), (8, 17)):
        with pytest.raises(ValueError, match=f"{n} of {m} is not possible"):
            Nm(n, m)
    for value in (Nm(), Split()):
        with pytest.raises(ValueError, match="value cannot be"):
            Nm(value=value)
    with pytest.raises(ValueError, match="group=33 of the kept weights is not a multiple of n=2"):
        Nm(value=Int4(group=33))
    with pytest.raises(ValueError, match="m=4 does not divide 30 columns"):
        Nm().pack(np.ones((2, 30), np.float32))
    with pytest.raises(ValueError, match="group=64 does not divide 48 columns"):
        Nm(value=Int4(group=64)).field_types((2, 96))
    for kept in ([1, 1], [2, 1], [3, 4]):
        with pytest.raises(ValueError, match="kept places must ascend"):
            Nm().assemble({"kept": np.array([kept]), "values": np.ones((1, 2))}, (1, 4))


def test_columns_that_can_be_packed_alone() -> None:
    assert [Nm(2, 4).block, Nm(3, 4, Int4(group=24)).block, Nm(2, 8, Int8()).block] == [4, 32, 0]
    assert Nm(2, 4, Ternary(group=6, pack_="3of4")).block == 24
    assert Nm(value=Bitplane(group=32)).block == 64
