"""Every fitter with every encoding that it fits: better than round to nearest, valid, the same bytes twice."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from weight_error import weighted_error

from nomul.ir.encodings import Encoding, all_encodings
from nomul.ir.encodings.low_bit import LowBit
from nomul.ir.syntax import parse_encoding
from nomul.passes.fit import all_fitters, find_fitter, fitters_of

ENCODINGS = (
    "int8",
    "int8<zero=1, group=32>",
    "int4",
    "int4<group=32>",
    "int4<zero=1, group=32, scales=f32>",
    "ternary",
    "ternary<planes=2, group=32>",
    "ternary<planes=2, group=32, tied=1>",
    "ternary<planes=3, group=32, pack=base3>",
    "ternary<planes=3, tied=1>",
    "ternary<group=32, pack=3of4>",
    "ternary<planes=2, pack=3of4>",
    "bitplane<bits=1, group=32>",
    "bitplane<group=32>",
    "bitplane<bits=3>",
    "bitplane<bits=4, group=32, scales=bf16>",
    "bitplane<bits=1, group=32, tied=1>",
    "bitplane<group=32, tied=1>",
    "bitplane<bits=3, tied=1>",
    "codebook",
    "codebook<entries=32, group=32>",
    "codebook<group=32, grid=power>",
    "codebook<group=32, grid=twinlog>",
    "codebook<group=32, grid=e2m1>",
    "codebook<grid=e3m0>",
    "codebook<grid=e1m2>",
    "codebook<group=32, grid=nf4>",
    "shift<group=32>",
    "shift<pack=5bit>",
    "shift<terms=2>",
    "shift<terms=2, group=32, pack=sp2>",
    "shift<terms=3, group=32>",
    "nm",
    "nm<value=int8>",
    "nm<value=int4<group=16>>",
    "nm<n=3, value=f16>",
    "nm<n=1, value=ternary<group=8>>",
    "nm<n=4, m=8, value=codebook>",
    "split",
    "split<columns=1>",
    "split<salient=0.25, value=int8, rest=ternary>",
)
PAIRS = [
    pytest.param(text, found.name, id=f"{text}-{found.name}")
    for text in ENCODINGS
    for found in fitters_of(parse_encoding(text))
    if found.name != "round_to_nearest"
]
ROWS, COLUMNS = 24, 128


@cache
def layer() -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Hessian of correlated inputs of different sizes."""
    generator = np.random.default_rng(7)
    weights = generator.standard_normal((ROWS, COLUMNS)).astype(np.float32)
    mixing = generator.standard_normal((COLUMNS // 4, COLUMNS))
    inputs = generator.standard_normal((2048, COLUMNS // 4)) @ mixing + 0.3 * generator.standard_normal((2048, COLUMNS))
    inputs *= np.exp(0.5 * generator.standard_normal(COLUMNS))
    return weights, inputs.T @ inputs / len(inputs)


def fit(text: str, fitter: str, calibrated: bool) -> tuple[Encoding, dict[str, np.ndarray], np.ndarray]:
    """Encoding, fields, values."""
    weights, hessian = layer()
    encoding = parse_encoding(text)
    fields = dict(find_fitter(fitter, encoding)(weights, hessian if calibrated else None, encoding))
    return encoding, fields, encoding.unpack(fields, (ROWS, COLUMNS))


fitted = cache(fit)  # what several tests look at


@pytest.mark.parametrize(("text", "fitter"), PAIRS)
def test_with_calibration_outputs_are_better_than_rounded_ones(text: str, fitter: str) -> None:
    weights, hessian = layer()
    _, _, rounded = fitted(text, "round_to_nearest", False)
    encoding, fields, values = fitted(text, fitter, True)
    assert weighted_error(weights, values, hessian) < 0.99 * weighted_error(weights, rounded, hessian)
    types = encoding.field_types((ROWS, COLUMNS))
    assert {name: (array.dtype, array.shape) for name, array in fields.items()} == types


@pytest.mark.parametrize(("text", "fitter"), PAIRS)
def test_without_calibration_weights_are_as_good_as_rounded_ones(text: str, fitter: str) -> None:
    weights, _ = layer()
    _, _, rounded = fitted(text, "round_to_nearest", False)
    _, _, values = fitted(text, fitter, False)
    assert weighted_error(weights, values) <= weighted_error(weights, rounded) * (1 + 1e-6)


@pytest.mark.parametrize(("text", "fitter"), PAIRS)
def test_the_same_bytes_twice(text: str, fitter: str) -> None:
    for calibrated in (False, True):
        first, second = (make(text, fitter, calibrated)[1] for make in (fitted, fit))
        assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("text", "fitter"), PAIRS)
def test_zeros_stay_zeros(text: str, fitter: str) -> None:
    encoding = parse_encoding(text)
    for array in (np.zeros((4, COLUMNS), np.float32), np.concatenate([layer()[0][:3], np.zeros((1, COLUMNS))])):
        for hessian in (None, layer()[1]):
            fields = find_fitter(fitter, encoding)(array.astype(np.float32), hessian, encoding)
            values = encoding.unpack(fields, array.shape)
            assert np.isfinite(values).all()
            assert not values[-1].any() or (encoding.name == "split" and np.abs(values[-1]).max() < 1e-6)


@pytest.mark.parametrize(("text", "fitter"), PAIRS)
def test_what_is_refused(text: str, fitter: str) -> None:
    encoding = parse_encoding(text)
    function = find_fitter(fitter, encoding)
    bad = layer()[0].copy()
    bad[2, 5] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        function(bad, None, encoding)
    with pytest.raises(ValueError, match="the Hessian is \\[3, 3\\]"):
        function(layer()[0], np.eye(3), encoding)
    with pytest.raises(ValueError, match="the calibration data makes NaN"):
        function(layer()[0], np.full((COLUMNS, COLUMNS), np.nan), encoding)


@pytest.mark.parametrize("text", ENCODINGS)
def test_inputs_that_are_always_zero_do_no_harm(text: str) -> None:
    weights, hessian = layer()
    silent = hessian.copy()
    silent[5], silent[:, 5] = 0, 0
    encoding = parse_encoding(text)
    values = encoding.unpack(fitters_of(encoding)[0](weights, silent, encoding), weights.shape)
    assert np.isfinite(values).all()
    assert weighted_error(weights, values, silent) < 0.9


def test_a_convolution_is_fitted_as_a_matrix() -> None:
    weights, hessian = layer()
    encoding = parse_encoding("int4<group=32>")
    clip = find_fitter("clip", encoding)
    flat, image = clip(weights, hessian, encoding), clip(weights.reshape(ROWS, 8, 4, 4), hessian, encoding)
    assert all(np.array_equal(flat[name], image[name]) for name in flat)


def test_every_encoding_and_every_fitter_is_tried() -> None:
    tried = {parse_encoding(text).name for text in ENCODINGS}
    assert tried == {name for name, kind in all_encodings().items() if issubclass(kind, LowBit)}
    assert {pair.values[1] for pair in PAIRS} == set(all_fitters()) - {"round_to_nearest"}


@pytest.mark.parametrize("text", ["int4<group=32>", "int4"])
def test_clip_without_calibration_spares_large_weights(text: str) -> None:
    """Where they belong to large inputs, scales of the plain least error make nearly twice the error of rounding."""
    encoding, weights = parse_encoding(text), np.random.default_rng(3).standard_normal((ROWS, COLUMNS))
    weights[:, ::32] *= 3
    sizes = np.where(np.arange(COLUMNS) % 32, 1.0, 10.0)
    fields = find_fitter("clip", encoding)(weights.astype(np.float32), None, encoding)
    rounded, clipped = (encoding.unpack(found, weights.shape) for found in (encoding.pack(weights), fields))
    assert weighted_error(weights, clipped) < 0.98 * weighted_error(weights, rounded)
    hessian = np.diag(sizes**2)
    assert weighted_error(weights, clipped, hessian) < 1.3 * weighted_error(weights, rounded, hessian)
