"""Elementary functions against numpy: at most 4 units in the last place on dense grids, right at every edge."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from kernel_harness import CompiledKernel, every_level, level, level_names, make_group
from tvm import tirx
from tvm.tirx.script import builder as T

from nomul.backends import mathlib
from nomul.backends.frame import KernelFrame, index_constant
from nomul.backends.octaves import exp2_nonpositive
from nomul.backends.registry import Built
from nomul.backends.target import Target
from nomul.ir import numerics
from nomul.ir.dim import Dim
from nomul.ir.types import Tensor

EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-39, 1.1754944e-38, 3.4e38, -3.4e38, 1.0, -1.0, 0.5, 2.0]
WIDE = np.concatenate([
    np.linspace(-110, 110, 60001), np.linspace(-4, 4, 60001), np.geomspace(1e-44, 3e38, 30000),
    -np.geomspace(1e-44, 3e38, 30000), EDGES,
]).astype(np.float32)  # fmt: skip


def compiled(function: Callable, operands: int, target: Target, dtype: str = "f32", lanes: int = 8) -> CompiledKernel:
    types = [Tensor.of(dtype, "N")] * operands
    group = make_group(lambda b, *xs: xs[0], *types, ranges={"N": (1, 1 << 30)})
    step = index_constant(lanes)
    with KernelFrame(group, target) as kernel, T.serial(kernel.begin, kernel.end) as tile:
        place = (tirx.Ramp(tile * step, index_constant(1), lanes),) if lanes > 1 else (tile,)
        kernel.write(0, place, function(*(kernel.read(param, place) for param in group.func.params)))
    return CompiledKernel(group, Built(kernel.function, Dim.of("N") // lanes), target)


def padded(x: np.ndarray, lanes: int = 8) -> np.ndarray:
    return np.concatenate([x, np.zeros(-x.size % lanes, x.dtype)])


def seen(x: np.ndarray, on: str) -> np.ndarray:
    """Numbers as the machine sees them: the vectors of ARMv7 take denormals for zeros, and make none."""
    tiny = np.abs(x) < np.finfo(np.float32).smallest_normal
    return np.where(tiny, np.copysign(0, x), x).astype(x.dtype) if level(on).arch == "arm" else x


def ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Error in units in the last place of the rounded exact value; exact in higher precision."""
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        error = np.abs(got.astype(np.longdouble) - exact) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    return np.where(same, 0, np.where(np.isfinite(rounded) & np.isfinite(got), error, np.inf)).astype(np.float64)


def test_powers_of_two() -> None:
    edges = [-1e-30, -0.0, -126.5, -1e9, -3.4e38, -np.inf]
    x = padded(np.concatenate([np.linspace(-126, 0, 60001), edges]).astype(np.float32))
    got = compiled(exp2_nonpositive, 1, level("v3"))(x)[0]
    assert ulps(got, np.where(x < -126, 0, np.exp2(x.astype(np.float64)))).max() <= 4


FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "exp": (mathlib.exp, np.exp),
    "expm1": (mathlib.expm1, np.expm1),
    "log": (mathlib.log, np.log),
    "log1p": (mathlib.log1p, np.log1p),
    "tanh": (mathlib.tanh, np.tanh),
    "erf": (mathlib.erf, numerics.erf),
    "sigmoid": (mathlib.sigmoid, numerics.sigmoid),
    "softplus": (mathlib.softplus, numerics.softplus),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("on", every_level())
def test_f32(name: str, on: str) -> None:
    ours, theirs = FUNCTIONS[name]
    x = seen(padded(WIDE), on)
    with np.errstate(all="ignore"):
        exact = seen(theirs(x.astype(np.float64)), on)
    error = ulps(compiled(ours, 1, level(on))(x)[0], exact)
    assert error.max() <= 4, (x[error.argmax()], error.max())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_f64_is_double_precision(name: str) -> None:
    ours, theirs = FUNCTIONS[name]
    x = padded(WIDE[np.abs(WIDE) < 300].astype(np.float64))
    with np.errstate(all="ignore"):
        expected = theirs(x.astype(np.float64))
    got = compiled(ours, 1, level(level_names()[-1]), "f64")(x)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("on", every_level())
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_angles(name: str, on: str) -> None:
    x = padded(np.concatenate([
        np.linspace(-1e5, 1e5, 100001), np.linspace(-7, 7, 50001), np.geomspace(1e-40, 1e6, 20001), EDGES[:7],
        np.arange(1, 20000) * np.pi / 2,
    ]).astype(np.float32))  # fmt: skip
    with np.errstate(all="ignore"):
        exact = getattr(np, name)(x.astype(np.longdouble))
    error = ulps(compiled(getattr(mathlib, name), 1, level(on))(x)[0], exact)
    assert error.max() <= 1, (x[error.argmax()], error.max())


@pytest.mark.parametrize("on", every_level())
def test_pow(on: str) -> None:
    rng = np.random.default_rng(1)
    size = np.exp(rng.uniform(-20, 20, 40000)) * rng.choice([-1, 1], 40000)
    exponent = np.where(rng.random(40000) < 0.5, rng.integers(-6, 7, 40000), rng.uniform(-4, 4, 40000))
    edges = np.array(np.meshgrid([*EDGES, 3.0, -3.0], [*EDGES, 3.0, -3.0, 2.5])).reshape(2, -1)
    x, y = (np.concatenate(pair).astype(np.float32) for pair in ((size, edges[0]), (exponent, edges[1])))
    x, y = seen(padded(x), on), seen(padded(y), on)
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(np.float64), y.astype(np.float64))
    error = ulps(compiled(mathlib.power, 2, level(on))(x, y)[0], exact)
    assert error.max() <= 1, (x[error.argmax()], y[error.argmax()], error.max())


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish"])
@pytest.mark.parametrize("on", every_level())
def test_activations_are_exact_to_a_part_in_a_million(name: str, on: str) -> None:
    x = padded(np.concatenate([np.linspace(-12, 12, 100001), [np.nan, 100.0, -100.0, 1e30]]).astype(np.float32))
    wide = x.astype(np.float64)
    exact = {
        "gelu": lambda v: 0.5 * v * (1 + numerics.erf(v * np.sqrt(0.5))),
        "gelu_tanh": lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3))),
        "silu": lambda v: v * numerics.sigmoid(v),
        "mish": lambda v: v * np.tanh(numerics.softplus(v)),
    }[name]
    with np.errstate(all="ignore"):
        expected = exact(wide)
    got = compiled(getattr(mathlib, name), 1, level(on))(x)[0].astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    error = np.abs(got - expected) / np.maximum(np.abs(wide), 1)
    assert np.nanmax(error) < 2e-7, (x[np.nanargmax(error)], np.nanmax(error))


@pytest.mark.parametrize("on", every_level())
def test_exp_nonpositive(on: str) -> None:
    x = padded(
        np.concatenate([-np.geomspace(1e-30, 1e30, 20001), np.linspace(-90, 0, 50001), [-np.inf, 0]]).astype("f4")
    )
    got = compiled(mathlib.exp_nonpositive, 1, level(on))(x)[0]
    exact = np.exp(x.astype(np.float64))
    normal = exact > 1.2e-38
    assert ulps(got[normal], exact[normal]).max() <= 4 and (got[exact < 1.1e-38] == 0).all()


@pytest.mark.parametrize("on", every_level())
def test_one_lane_gives_the_same_bits(on: str) -> None:
    if level(on).arch == "arm":
        pytest.skip("ARMv7 has another unit for single numbers, which rounds multiply-adds otherwise")
    x = WIDE[::50].copy()
    for function in (mathlib.exp, mathlib.erf, mathlib.tanh):
        vector = compiled(function, 1, level(on))(padded(x))[0][: x.size]
        scalar = compiled(function, 1, level(on), lanes=1)(x)[0]
        np.testing.assert_array_equal(vector, scalar)
