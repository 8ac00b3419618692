"""3-of-4 ternary weights with calibration: no four and no scale can be better, and errors do not grow on the way."""

from __future__ import annotations

import numpy as np
import pytest
from weight_error import weighted_error

from nomul.ir.encodings.ternary import Ternary
from nomul.passes.fit import find_fitter
from nomul.passes.fit.solve import fours
from nomul.passes.fit.solve.fours import PATTERNS, descend_fours

ROWS, COLUMNS = 12, 32


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((ROWS, COLUMNS))


@pytest.fixture
def hessian() -> np.ndarray:
    inputs = np.random.default_rng(4).standard_normal((200, COLUMNS)) @ np.random.default_rng(5).random((COLUMNS,) * 2)
    return inputs.T @ inputs / 200 + 0.1 * np.eye(COLUMNS)


def test_patterns_are_all_with_one_zero() -> None:
    assert len(np.unique(PATTERNS, axis=0)) == 32
    assert (np.sum(PATTERNS == 0, axis=1) == 1).all()
    assert (np.abs(PATTERNS).sum(axis=1) == 3).all()


@pytest.mark.parametrize("planes", [1, 2])
def test_the_end_has_no_better_neighbour(
    planes: int, weights: np.ndarray, hessian: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fours, "SWEEPS", 60)
    encoding = Ternary(planes=planes, group=16, pack_="3of4", scales="f32")
    parts = descend_fours(encoding, encoding.choose(weights), weights, hessian)
    least = _errors(encoding.values(parts), weights, hessian)
    for plane in range(planes):
        for start in range(0, COLUMNS, 4):
            for pattern in PATTERNS:
                trits = parts["trits"].copy()
                trits[plane, :, start : start + 4] = pattern
                assert (_errors(encoding.values({**parts, "trits": trits}), weights, hessian) > least - 1e-4).all()
        for group in range(COLUMNS // 16):
            for factor in (0.98, 1.02):
                scale = parts["scale"].copy()
                scale[plane, :, group] *= factor
                assert (_errors(encoding.values({**parts, "scale": scale}), weights, hessian) > least - 1e-4).all()


@pytest.mark.parametrize("planes", [1, 2])
def test_each_sweep_lowers_the_error(
    planes: int, weights: np.ndarray, hessian: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoding = Ternary(planes=planes, group=16, pack_="3of4", scales="f32")
    found = []
    for sweeps in (0, 1, 2, 3):
        monkeypatch.setattr(fours, "SWEEPS", sweeps)
        parts = descend_fours(encoding, encoding.choose(weights), weights, hessian)
        found.append(weighted_error(weights, encoding.values(parts), hessian))
    assert found == sorted(found, reverse=True) and found[1] < 0.8 * found[0]


@pytest.mark.parametrize("planes", [1, 2])
def test_errors_stay_bounded_with_few_inputs(planes: int, weights: np.ndarray) -> None:
    """Inputs of four directions leave weights free, but other inputs may come."""
    wide = np.tile(weights, (1, 8)).astype(np.float32)
    inputs = np.random.default_rng(6).standard_normal((64, 4)) @ np.random.default_rng(7).standard_normal((4, 256))
    encoding = Ternary(planes=planes, group=64, pack_="3of4")
    fields = find_fitter("sherry", encoding)(wide, inputs.T @ inputs / 64, encoding)
    values = encoding.unpack(fields, wide.shape)
    assert weighted_error(wide, values, inputs.T @ inputs / 64) < 0.05
    assert weighted_error(wide, values) < 1.2


def test_groups_that_are_no_fours_are_refused() -> None:
    with pytest.raises(ValueError, match="group=6 is no multiple of four"):
        find_fitter("sherry", Ternary(group=6, pack_="3of4"))
    assert find_fitter(None, Ternary(group=6, pack_="3of4")).name == "gptq"


def _errors(values: np.ndarray, weights: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """By row."""
    error = values - weights
    return np.einsum("nk,kl,nl->n", error, hessian, error)
