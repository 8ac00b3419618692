"""Half floats in memory: every pattern read, and f32 rounded to them, as numpy does, on every level."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernel_harness import compile_kernel, every_level, level, make_group

from nomul.backends.registry import all_kernels
from nomul.ir.types import DType, Tensor

PATTERNS = np.arange(65536, dtype=np.uint16)


def converted(array: np.ndarray, goal: DType, on: str) -> np.ndarray:
    group = make_group(lambda b, x: b.ew.cast(x, dtype=goal), Tensor.of(DType.from_numpy(array.dtype), "N"))
    return compile_kernel(all_kernels()["any/f32/generic"], group, level(on))(array)[0]


@pytest.mark.parametrize("on", every_level())
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_every_half_is_read(half: type, on: str) -> None:
    array = PATTERNS.view(half)
    got, expected = converted(array, DType.F32, on), array.astype(np.float32)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(got[~nan].view(np.uint32), expected[~nan].view(np.uint32))
    assert np.isnan(got[nan]).all()


@pytest.mark.parametrize("on", every_level())
@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_f32_is_rounded_to_nearest_even(half: type, on: str) -> None:
    exact = PATTERNS.view(half).astype(np.float32)
    near = exact.view(np.uint32)[None, :] + np.arange(-3, 4, dtype=np.int64)[:, None]
    with np.errstate(all="ignore"):
        steps = np.spacing(exact.astype(half)).astype(np.float32) / 2
        halfway = np.concatenate([exact + steps, exact - steps]).astype(np.float32)
        array = np.concatenate([near.astype(np.uint32).reshape(-1).view(np.float32), halfway])
        expected = array.astype(half)
    got = converted(array, DType.from_numpy(np.dtype(half)), on)
    nan = np.isnan(expected.astype(np.float32))
    np.testing.assert_array_equal(got[~nan].view(np.uint16), expected[~nan].view(np.uint16))
    assert np.isnan(got[nan].astype(np.float32)).all()
