"""Sums of signed powers of two."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings.shift import FORMS, Shift

FORMATS = [(terms, pack) for terms in (1, 2, 3) for pack in FORMS if pack != "sp2"] + [(2, "sp2")]


@pytest.mark.parametrize(("terms", "pack"), FORMATS)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_terms_are_stored_and_read_back(terms: int, pack: str, seed: int) -> None:
    encoding, rng = Shift(terms, 5, pack), np.random.default_rng(seed)
    sign = rng.integers(-1, 2, (terms, 3, 10))
    if pack == "sp2":
        sign = np.abs(sign) * rng.choice([-1, 1], (3, 10))
    choices = [encoding.form.exponents[term if pack == "sp2" else 0] for term in range(terms)]
    exponent = np.stack([rng.choice(options, (3, 10)) for options in choices]) * np.abs(sign)
    scale = np.float16(rng.uniform(0.01, 2, (3, 2))).astype(np.float32)
    parts = {"sign": sign.astype(np.int8), "exponent": exponent.astype(np.int8), "scale": scale}
    packed = encoding.assemble(parts, (3, 10))
    again = encoding.parts(packed, (3, 10))
    assert all(np.array_equal(again[name], part) for name, part in parts.items())
    expected = (sign * 2.0**exponent).sum(axis=0) * scale.repeat(5, axis=1)
    np.testing.assert_array_equal(encoding.unpack(packed, (3, 10)), expected.astype(np.float32))


@pytest.mark.parametrize(("terms", "pack"), FORMATS)
def test_codes_are_the_nearest_sums(terms: int, pack: str) -> None:
    encoding = Shift(terms, 0, pack)
    if pack == "sp2":
        first, second = (0, 1, 1 / 4, 1 / 16), (0, 1 / 2, 1 / 8, 1 / 32)
        sums = {sign * (a + b) for sign in (1, -1) for a in first for b in second}
    else:
        powers = [0.0, *(sign * 2.0**e for e in encoding.form.exponents[0] for sign in (1, -1))]
        sums = {sum(way) for way in product(powers, repeat=terms)}
    levels = np.array(sorted(sums))
    matrix = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 200))
    matrix[:, 0], matrix[:, 1] = 0, levels[levels > 0][0] / 4
    parts = encoding.nearest(matrix, {"scale": np.ones((2, 1), np.float32)})
    least = np.abs(matrix[..., None] - levels).min(-1)
    np.testing.assert_allclose(np.abs(encoding.values(parts) - matrix), least, atol=1e-6)
    assert not parts["sign"][:, :, :2].any() and not parts["exponent"][parts["sign"] == 0].any()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_single_powers_up_to_the_scale_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    exponent, sign = rng.integers(-6, 1, (3, 12)), rng.integers(-1, 2, (3, 12))
    exponent[:, 0], sign[:, 0] = 0, 1
    weights = (sign * 2.0**exponent * np.float16(rng.uniform(0.1, 2))).astype(np.float32)
    for terms in (1, 2, 3):
        encoding = Shift(terms)
        np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), (3, 12)), weights)


def test_sums_use_as_few_terms_as_possible() -> None:
    parts = Shift(3).nearest(np.array([[1, 0.75, 0.875, 0.5, -0.375]]), {"scale": np.ones((1, 1), np.float32)})
    assert np.count_nonzero(parts["sign"], axis=0).tolist() == [[1, 2, 2, 1, 2]]


def test_packed_bytes() -> None:
    weights = np.array([[1, -0.5, 0, 2.0**-6]], np.float32)
    assert Shift().pack(weights)["codes"].tolist() == [[[0xE7, 0x10]]]
    code = [15, 16 | 14, 0, 9]
    number = sum(value << (5 * place) for place, value in enumerate(code))
    assert Shift(pack_="5bit").pack(weights)["codes"].tolist() == [[list(number.to_bytes(3, "little"))]]
    packed = Shift(2, pack_="sp2").pack(np.array([[1.5, -1 / 32]], np.float32))
    assert int.from_bytes(packed["codes"].tobytes(), "little") == 0b0101 | (0b1_0011 << 5)


def test_bits_per_weight() -> None:
    assert [Shift(terms).bits_per_weight((8, 256)) for terms in (1, 2, 3)] == [4.0625, 8.0625, 12.0625]
    assert Shift(pack_="5bit", group=32).bits_per_weight((8, 256)) == 5.5
    assert Shift(2, pack_="sp2").bits_per_weight((8, 256)) == 5.0625


def test_what_is_refused() -> None:
    for parameters in ({"terms": 0}, {"pack_": "6bit"}, {"terms": 1, "pack_": "sp2"}):
        with pytest.raises(ValueError, match=r"terms|pack"):
            Shift(**parameters)  # type: ignore[arg-type]
    one = np.ones((1, 1), np.float32)
    with pytest.raises(ValueError, match="the exponents of term 0 must be -6"):
        Shift().assemble({"sign": one[None], "exponent": np.full((1, 1, 1), -7), "scale": one}, (1, 1))
    opposite = {"sign": np.array([[[1]], [[-1]]]), "exponent": np.array([[[0]], [[-1]]]), "scale": one}
    with pytest.raises(ValueError, match="must have the same sign"):
        Shift(2, pack_="sp2").assemble(opposite, (1, 1))
