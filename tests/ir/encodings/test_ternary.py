"""Ternary planes, and the reference errors of single planes (`N(0, 1)` weights, groups of 128)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings import get_encoding, three_of_four
from nomul.ir.encodings.ternary import Ternary


def relative_error(encoding: Ternary) -> float:
    weights = np.random.default_rng(0).normal(size=(512, 128)).astype(np.float32)
    decoded = encoding.unpack(encoding.pack(weights), weights.shape)
    return float(np.linalg.norm(decoded - weights) / np.linalg.norm(weights))


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        (Ternary(), 0.437),
        (Ternary(pack_="3of4"), 0.531),
        (Ternary(planes=2, tied=1), 0.172),
    ],
    ids=str,
)
def test_reference_errors(encoding: Ternary, expected: float) -> None:
    assert relative_error(encoding) == pytest.approx(expected, abs=0.003)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), planes=st.integers(1, 3), pack=st.sampled_from(("2bit", "base3")))
def test_representable_weights_are_exact(seed: int, planes: int, pack: str) -> None:
    """One plane, and tied ones."""
    encoding = Ternary(planes, 10, pack, tied=int(planes > 1))
    rng = np.random.default_rng(seed)
    limit = 3**planes // 2
    codes = rng.integers(-limit, limit + 1, (3, 2, 10))
    scale = np.float16(rng.uniform(0.01, 2, (3, 2, 1))).astype(np.float32)
    weights = (codes * scale).astype(np.float32).reshape(3, 20)
    np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), (3, 20)), weights)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), planes=st.integers(1, 3))
def test_codes_are_the_nearest_for_given_scales(seed: int, planes: int) -> None:
    encoding, rng = Ternary(planes, group=4), np.random.default_rng(seed)
    matrix = rng.normal(size=(2, 8))
    scale = rng.uniform(0, 1.5, (planes, 2, 2)).astype(np.float32)
    parts = encoding.nearest(matrix, {"scale": scale})
    combinations = np.stack(np.meshgrid(*[[-1, 0, 1]] * planes), -1).reshape(-1, planes)
    levels = np.einsum("cp,png->cng", combinations, scale.astype(np.float64)).repeat(4, axis=-1)
    least = np.abs(levels - matrix).min(axis=0)
    np.testing.assert_allclose(np.abs(encoding.values(parts) - matrix), least, atol=1e-6)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_three_of_four_keeps_the_largest(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(3, 16)).astype(np.float32)
    encoding = Ternary(pack_="3of4", group=8)
    trits = encoding.parts(encoding.pack(weights), weights.shape)["trits"][0].reshape(3, 4, 4)
    fours = weights.reshape(3, 4, 4)
    assert ((trits == 0).sum(-1) == 1).all()
    np.testing.assert_array_equal((trits == 0).argmax(-1), np.abs(fours).argmin(-1))
    np.testing.assert_array_equal(np.sign(fours)[trits != 0], trits[trits != 0])


def test_three_of_four_codes_are_those_of_the_paper() -> None:
    """Lanes of two bits, 00 = -1, 01 = 0, 10 = 1, the first lane lowest."""
    published = "A98929 09A68626 069A921A 126A624A 42012181 A1042484 A4101890 98404860 68"
    lanes = (three_of_four.TRITS + 1) << np.array([0, 2, 4, 6])
    assert bytes(lanes.sum(axis=1).astype(np.uint8)) == bytes.fromhex(published.replace(" ", ""))
    codes = np.arange(32, dtype=np.uint8)[None]
    np.testing.assert_array_equal(three_of_four.encode(three_of_four.decode(codes)), codes)


def test_packed_bytes() -> None:
    weights = np.array([[1, -1, 0, 1, 1, -1]], np.float32)
    assert Ternary().pack(weights)["trits"].tolist() == [[[0b10_01_00_10, 0b00_10]]]
    assert Ternary(pack_="base3").pack(weights)["trits"].tolist() == [[[2 + 0 + 9 + 54 + 162, 0]]]
    tied = Ternary(planes=2, tied=1)
    assert tied.parts(tied.pack(np.array([[4, 3, 2, 1, 0, -2]], np.float32)), (1, 6))["trits"].tolist() == [
        [[1, 1, 1, 0, 0, -1]],
        [[1, 0, -1, 1, 0, 1]],
    ]


def test_bits_per_weight() -> None:
    shape = (8, 1280)
    assert Ternary().bits_per_weight(shape) == 2 + 16 / 1280
    assert Ternary(group=128, pack_="base3").bits_per_weight(shape) == 1.6 + 16 / 128
    assert Ternary(group=128, pack_="3of4").bits_per_weight(shape) == 1.25 + 16 / 128
    assert Ternary(planes=2, group=128).bits_per_weight(shape) == 4.25
    assert Ternary(planes=2, group=128, tied=1).bits_per_weight(shape) == 4.125


@pytest.mark.parametrize(
    "parameters",
    [{"planes": 0}, {"planes": 4}, {"pack_": "4bit"}, {"tied": 1}, {"planes": 2, "tied": 1, "pack_": "3of4"}],
)
def test_wrong_parameters(parameters: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"planes|pack|tied"):
        get_encoding("ternary", **parameters)


def test_what_three_of_four_refuses() -> None:
    encoding = Ternary(pack_="3of4")
    with pytest.raises(ValueError, match="columns in fours, but there are 30"):
        encoding.pack(np.ones((2, 30), np.float32))
    with pytest.raises(ValueError, match="1 fours of trits have not exactly one zero"):
        encoding.assemble({"trits": np.array([[[1, 1, 1, 0, 1, 1, 1, 1]]]), "scale": np.ones((1, 1, 1))}, (1, 8))
    with pytest.raises(ValueError, match="trits from 0 to 2 are outside"):
        Ternary().assemble({"trits": np.array([[[0, 2]]]), "scale": np.ones((1, 1, 1))}, (1, 2))
