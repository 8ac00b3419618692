"""Look-up tables and their grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.ir.encodings.codebook import Codebook
from nomul.ir.encodings.palettes import FIXED, STORED, as_integers, palette, power, twin_log

NF4 = """-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0"""


def test_grids() -> None:
    expected = {
        "e2m1": [0, 0.5, 1, 1.5, 2, 3, 4, 6],
        "e1m2": [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75],
        "e3m0": [0, 0.25, 0.5, 1, 2, 4, 8, 16],
    }
    for grid, magnitudes in expected.items():
        unit = magnitudes[1]
        table = palette(grid, 16) * unit
        assert table[:8].tolist() == magnitudes and (-table[8:]).tolist() == magnitudes
    np.testing.assert_array_equal(palette("nf4", 16), np.rint(127 * np.array([float(x) for x in NF4.split()])))
    assert np.abs(FIXED["nf4"](16) - [float(x) for x in NF4.split()]).max() < 1e-6


@pytest.mark.parametrize("entries", [16, 32])
def test_stored_grids(entries: int) -> None:
    for grid in STORED:
        table = palette(grid, entries)
        assert table.shape == (entries,) and table.max() == 127 == -table.min()
    np.testing.assert_allclose(power(entries, 1.0)[:-1], np.linspace(-1, 1, entries - 1), atol=1e-12)
    log = twin_log(entries, (1.0, 0.5), (1.0, 2.0))
    assert log[1] == 0.5 and log[entries // 2] == -2 and log[entries // 2 + 2] == -1


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), grid=st.sampled_from([*FIXED, *STORED]), entries=st.sampled_from((16, 32)))
def test_representable_weights_are_exact(seed: int, grid: str, entries: int) -> None:
    """Weights of a grid that reach its ends."""
    encoding = Codebook(entries if grid in STORED else 16, 10, grid)
    rng, table = np.random.default_rng(seed), palette(grid, encoding.entries)
    codes = rng.integers(0, encoding.entries, (3, 2, 10))
    codes[..., 0], codes[..., 1] = table.argmin(), table.argmax()
    scale = np.float16(rng.uniform(0.001, 0.1, (3, 2, 1))).astype(np.float32)
    weights = (table[codes] * scale).reshape(3, 20)
    np.testing.assert_array_equal(encoding.unpack(encoding.pack(weights), (3, 20)), weights)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_codes_are_the_nearest_for_a_given_palette(seed: int) -> None:
    rng, encoding = np.random.default_rng(seed), Codebook(32, group=8)
    matrix, levels = rng.normal(size=(4, 16)), rng.normal(size=32)
    scales = encoding.scales_for(matrix, levels)
    parts = encoding.nearest(matrix, scales)
    grid = scales["palette"] * scales["scale"][..., None]
    least = np.abs(matrix[..., None] - grid.repeat(8, axis=1).reshape(4, 16, 32)).min(-1)
    np.testing.assert_allclose(np.abs(encoding.values(parts) - matrix), least, atol=1e-6)


def test_the_unit_of_a_palette_goes_into_the_scale() -> None:
    encoding, levels = Codebook(group=4), np.linspace(-1.5, 0.5, 16).astype(np.float32)
    parts = {"codes": np.arange(16, dtype=np.uint8)[None], "scale": np.full((1, 4), 2, np.float32), "palette": levels}
    packed = encoding.assemble(parts, (1, 16))
    assert packed["palette"].dtype == np.int8 and packed["palette"].tolist() == as_integers(levels).tolist()
    np.testing.assert_allclose(encoding.unpack(packed, (1, 16))[0], 2 * levels, atol=3 * 0.51 / 127)
    again = encoding.assemble(encoding.parts(packed, (1, 16)), (1, 16))
    assert all(np.array_equal(field, packed[name]) for name, field in again.items())


def test_groups_of_one_sign_use_the_end_of_their_side() -> None:
    encoding = Codebook()
    palette = np.append(-np.arange(15.0), 60)
    weights = np.array([[-7, -14, 0, -1]], np.float64)
    parts = encoding.nearest(weights, encoding.scales_for(weights, palette))
    assert parts["scale"].tolist() == [[1]] and encoding.values(parts).tolist() == weights.tolist()


def test_bits_per_weight() -> None:
    assert Codebook(16, 32, "e2m1").bits_per_weight((8, 256)) == 4.5
    assert Codebook(16, 32).bits_per_weight((8, 256)) == 4.5 + 128 / 2048
    assert Codebook(32, 64).bits_per_weight((8, 256)) == 5.25 + 256 / 2048


def test_what_is_refused() -> None:
    for parameters in ({"entries": 8}, {"grid": "e4m0"}, {"entries": 32, "grid": "nf4"}):
        with pytest.raises(ValueError, match=r"entries|grid"):
            Codebook(**parameters)  # type: ignore[arg-type]
    scale, codes = np.ones((1, 1), np.float32), np.zeros((1, 4), np.uint8)
    for levels in (np.ones(4), np.zeros(16), np.full(16, np.nan)):
        with pytest.raises(ValueError, match="a palette must have 16 numbers"):
            Codebook().assemble({"codes": codes, "scale": scale, "palette": levels}, (1, 4))
    with pytest.raises(ValueError, match="the palette is not that of grid=e2m1"):
        Codebook(grid="e2m1").assemble({"codes": codes, "scale": scale, "palette": np.arange(16.0)}, (1, 4))
