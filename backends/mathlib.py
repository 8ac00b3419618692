"""Elementary functions as TIR expressions that vectorise: no call of libm, right at NaN, infinities and denormals.

Every function takes an f32 or f64 expression of any number of lanes and emits its steps into the current IRBuilder
frame. Errors are at most 4 units in the last place in f32 (`tests/backends/test_mathlib.py`). Rounding to an integer
uses the addition of 1.5 * 2^(mantissa bits), so no float is converted to an integer out of range.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.expressions import (
    Expr,
    at_least,
    at_most,
    bind,
    constant,
    copysign,
    fma,
    intrinsic,
    polynomial,
)


@dataclass(frozen=True)
class Format:
    """What the algorithms need to know of a float format. ln2_high has so few bits that n * ln2_high is exact."""

    name: str
    integer: str
    mantissa: int
    bias: int
    magic: float
    magic_bits: int
    ln2_high: float
    ln2_low: float
    exp_tail: tuple[float, ...]  # (exp(r) - 1 - r) / r^2
    exp_low: float
    exp_high: float
    smallest: float
    root_half: int  # bits of sqrt(1/2)


F32 = Format(
    name="float32",
    integer="int32",
    mantissa=23,
    bias=127,
    magic=12582912.0,
    magic_bits=0x4B400000,
    ln2_high=0.693359375,
    ln2_low=-2.12194440e-4,
    # minimax on [-ln2/2, ln2/2], relative error 3.3e-9
    exp_tail=(0.49999994, 0.16666515, 0.041668456, 0.008369419, 0.0013813142),
    exp_low=-104.0,
    exp_high=89.0,
    smallest=2.0**-126,
    root_half=0x3F3504F3,
)
F64 = Format(
    name="float64",
    integer="int64",
    mantissa=52,
    bias=1023,
    magic=6755399441055744.0,
    magic_bits=0x4338000000000000,
    ln2_high=0.693147180369123816490,
    ln2_low=1.90821492927058770002e-10,
    exp_tail=tuple(1 / math.factorial(k) for k in range(2, 14)),  # Taylor: error 4e-18
    exp_low=-746.0,
    exp_high=710.0,
    smallest=2.0**-1022,
    root_half=0x3FE6A09E667F3BCD,
)


def format_of(x: Expr) -> Format:
    return F64 if x.ty.dtype.bits == 64 else F32


def _integer(x: Expr, form: Format) -> Any:
    return form.integer if x.ty.dtype.lanes == 1 else f"{form.integer}x{x.ty.dtype.lanes}"


def bits(x: Expr) -> Expr:
    """The bits of a float as a signed integer of the same width."""
    return tirx.reinterpret(_integer(x, format_of(x)), x)


def _shifted(value: Expr, by: int) -> Expr:
    return tirx.shift_left(value, constant(value, by))


def _power_of_two(exponent: Expr, like: Expr) -> Expr:
    """2^exponent for an integer exponent of a normal number."""
    form = format_of(like)
    return tirx.reinterpret(like.ty.dtype, _shifted(exponent + constant(exponent, form.bias), form.mantissa))


def _reduce_shifted(x: Expr) -> tuple[Expr, Expr]:
    """(n + magic, r) with x = n * ln2 + r, |r| <= ln2 / 2 (Cody and Waite 1980), n an integer."""
    form = format_of(x)
    shifted = bind(fma(x, constant(x, math.log2(math.e)), constant(x, form.magic)))
    n = bind(shifted - constant(x, form.magic))
    r = fma(n, constant(x, -form.ln2_high), x)
    return shifted, bind(fma(n, constant(x, -form.ln2_low), r))


def _reduce(x: Expr) -> tuple[Expr, Expr]:
    """(n, r) as above; n as an integer."""
    shifted, r = _reduce_shifted(x)
    integer = bits(shifted)
    return bind(integer - constant(integer, format_of(x).magic_bits)), r


def _exp_of_rest(r: Expr) -> Expr:
    tail = polynomial(r, format_of(r).exp_tail)
    return bind(fma(tail, bind(r * r), r) + constant(r, 1.0))


def exp(x: Expr) -> Expr:
    """e^x; two scalings, so that denormal results round once and overflow gives infinity."""
    form = format_of(x)
    x = bind(at_least(at_most(x, form.exp_high), form.exp_low))
    n, r = _reduce(x)
    half = bind(tirx.shift_right(n, constant(n, 1)))
    return _exp_of_rest(r) * _power_of_two(half, x) * _power_of_two(n - half, x)


_EXP_F32 = (1.0, 0.999999702, 0.499991477, 0.166676387, 0.0418982059, 0.00829026382)  # minimax, relative error 9e-8


def exp_nonpositive(x: Expr) -> Expr:
    """e^x for x <= 0 (or a little above) in f32: cheaper than `exp`; results below 2^-126 become 0.

    Eight multiply-adds: the power of two is added to the exponent, and what overflows is not chosen."""
    lowest = -87.33654
    shifted, r = _reduce_shifted(x)
    power = bind(bits(bind(polynomial(r, _EXP_F32))) + _shifted(bits(shifted), F32.mantissa))
    return tirx.Select(x < constant(x, lowest), constant(x, 0.0), tirx.reinterpret(x.ty.dtype, power))


def expm1(x: Expr) -> Expr:
    """e^x - 1, exact near zero."""
    form = format_of(x)
    clipped = bind(at_least(at_most(x, form.exp_high), -40.0))
    n, r = _reduce(clipped)
    part = bind(fma(polynomial(r, form.exp_tail), bind(r * r), r))
    half_scale = bind(_power_of_two(n - constant(n, 1), x))  # 2^(n-1): 2^128 is no number
    value = fma(half_scale, part, half_scale - constant(x, 0.5)) * constant(x, 2.0)
    tiny = intrinsic("llvm.fabs", x) < constant(x, 2.0 ** -(form.mantissa + 2))
    return bind(tirx.Select(tiny, x, value))


_LOG_F32 = (  # Cephes logf (Moshier 1989): (log(1 + f) - f + f^2 / 2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1]
    3.3333331174e-1,
    -2.4999993993e-1,
    2.0000714765e-1,
    -1.6668057665e-1,
    1.4249322787e-1,
    -1.2420140846e-1,
    1.1676998740e-1,
    -1.1514610310e-1,
    7.0376836292e-2,
)
_LOG_F64 = tuple(2 / (2 * k + 1) for k in range(1, 12))  # atanh series


def log(x: Expr) -> Expr:
    """Natural logarithm; NaN below zero, -infinity at zero."""
    form = format_of(x)
    tiny = bind(x < constant(x, form.smallest))
    scaled = bind(tirx.Select(tiny, x * constant(x, 2.0**form.mantissa), x))
    pattern = bind(bits(scaled))
    exponent = bind(tirx.shift_right(pattern - constant(pattern, form.root_half), constant(pattern, form.mantissa)))
    fraction = tirx.reinterpret(x.ty.dtype, pattern - _shifted(exponent, form.mantissa))
    e = bind(tirx.Cast(x.ty.dtype, exponent) - tirx.Select(tiny, constant(x, form.mantissa), constant(x, 0.0)))
    f = bind(fraction - constant(x, 1.0))
    value = _log_f32(f, e) if form is F32 else _log_f64(f, e)
    positive, infinite = constant(x, 0.0) < x, constant(x, math.inf)
    special = tirx.Select(tirx.EQ(x, constant(x, 0.0)), -infinite, tirx.Select(positive, x, constant(x, math.nan)))
    return bind(tirx.Select(tirx.And(positive, x < infinite), value, special))


def _log_f32(f: Expr, e: Expr) -> Expr:
    square = bind(f * f)
    y = polynomial(f, _LOG_F32) * f * square
    y = fma(e, constant(f, F32.ln2_low), y)
    y = fma(square, constant(f, -0.5), y)
    return fma(e, constant(f, F32.ln2_high), f + y)


def _log_f64(f: Expr, e: Expr) -> Expr:
    s = bind(f / (f + constant(f, 2.0)))
    z = bind(s * s)
    half_square = bind(f * f * constant(f, 0.5))
    series = polynomial(z, _LOG_F64) * z
    rest = fma(s, half_square + series, fma(e, constant(f, F64.ln2_low), -half_square))
    return fma(e, constant(f, F64.ln2_high), f + rest)


def log1p(x: Expr) -> Expr:
    """log(1 + x), exact near zero: log of the rounded sum plus the first-order effect of its rounding."""
    total = bind(fma(x, constant(x, 1.0), constant(x, 1.0)))
    lost = x + fma(total, constant(x, -1.0), constant(x, 1.0))
    value = bind(log(total) + lost / total)
    plain = tirx.Or(tirx.EQ(total, constant(x, 0.0)), tirx.EQ(total, constant(x, math.inf)))
    return bind(tirx.Select(plain, log(total), tirx.Select(tirx.EQ(x, constant(x, 0.0)), x, value)))


def tanh(x: Expr) -> Expr:
    """expm1(2|x|) / (expm1(2|x|) + 2) with the sign of x."""
    limit = 9.1 if format_of(x) is F32 else 20.0
    t = expm1(at_most(intrinsic("llvm.fabs", x), limit) * constant(x, 2.0))
    return bind(copysign(t / (t + constant(x, 2.0)), x))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e^-x), by e^-|x| so that both tails keep their precision."""
    e = bind(exp(-intrinsic("llvm.fabs", x)))
    one = constant(x, 1.0)
    return bind(tirx.Select(x < constant(x, 0.0), e, one) / (e + one))


def softplus(x: Expr) -> Expr:
    """log(1 + e^x) = max(x, 0) + log1p(e^-|x|)."""
    return bind(at_least(x, 0.0) + log1p(bind(exp(-intrinsic("llvm.fabs", x)))))


_ERF_SMALL = (1.28379166e-1, -3.76125336e-1, 1.12819925e-1, -2.67681349e-2, 4.99119423e-3, -5.96761703e-4)
_ERF_LARGE = (
    -1.28717512e-1,
    -6.34846687e-1,
    -1.06777877e-1,
    2.42546219e-2,
    -3.88396438e-3,
    3.83197126e-4,
    -1.7285347e-5,
)


def erf(x: Expr) -> Expr:
    """The error function. f32: N. Juffa's two minimax polynomials (x + x p(x^2), and 1 - exp(t p(t) - t))."""
    if format_of(x) is F64:
        return _erf_f64(x)
    size = bind(at_most(intrinsic("llvm.fabs", x), 4.0))
    small = fma(polynomial(bind(x * x), _ERF_SMALL), x, x)
    exponent = fma(polynomial(size, _ERF_LARGE), size, -size)
    large = copysign(constant(x, 1.0) - exp_nonpositive(bind(exponent)), x)
    return bind(tirx.Select(size < constant(x, 0.927734375), small, large))


def _ratio(top: Sequence[float], bottom: Sequence[float], x: Expr) -> Expr:
    return polynomial(x, top) / polynomial(x, bottom)


# W. J. Cody, "Rational Chebyshev approximations for the error function" (1969), lowest power first.
_CODY_SMALL = (
    (
        3.20937758913846947e03,
        3.77485237685302021e02,
        1.13864154151050156e02,
        3.16112374387056560e00,
        0.185777706184603153,
    ),
    (2.84423683343917062e03, 1.28261652607737228e03, 2.44024637934444173e02, 2.36012909523441209e01, 1.0),
)
_CODY_MIDDLE = (
    (1.23033935479799725e03, 2.05107837782607147e03, 1.71204761263407058e03, 8.81952221241769090e02,
     2.98635138197400131e02, 6.61191906371416295e01, 8.88314979438837594e00, 5.64188496988670089e-1,
     2.15311535474403846e-8),
    (1.23033935480374942e03, 3.43936767414372164e03, 4.36261909014324716e03, 3.29079923573345963e03,
     1.62138957456669019e03, 5.37181101862009858e02, 1.17693950891312499e02, 1.57449261107098347e01, 1.0),
)  # fmt: skip


def _erf_f64(x: Expr) -> Expr:
    size = bind(intrinsic("llvm.fabs", x))
    small = x * _ratio(*_CODY_SMALL, bind(x * x))
    inside = bind(at_most(size, 6.0))  # erf(6) rounds to 1
    large = constant(x, 1.0) - exp(-inside * inside) * _ratio(*_CODY_MIDDLE, inside)
    return bind(tirx.Select(size <= constant(x, 0.46875), small, copysign(large, x)))


_HALF_ERFC = (  # log(erfc(t / sqrt(2)) / 2) on [0, 6]; the error of exp of it times max(t, 0.3) is 4.2e-8
    -0.6931468844413757,
    -0.7978984713554382,
    -0.3181989789009094,
    -0.036672454327344894,
    0.0052900114096701145,
    -0.0003862568410113454,
    -1.1872903996845707e-05,
    3.237871169403661e-06,
)


def gelu(x: Expr) -> Expr:
    """x * Phi(x) by erf. f32: Phi(-|x|) as the exponential of one polynomial, absolute error 1e-7 times max(|x|, 1)."""
    half = constant(x, 0.5)
    if format_of(x) is F64:
        return bind(half * x * (constant(x, 1.0) + erf(bind(x * constant(x, math.sqrt(0.5))))))
    size = bind(intrinsic("llvm.fabs", x))
    n, r = _reduce(bind(polynomial(bind(at_most(size, 6.0)), _HALF_ERFC)))
    tail = _exp_of_rest(r) * _power_of_two(n, x)
    tail = bind(tirx.Select(size > constant(x, 6.0), constant(x, 0.0), tail))
    return bind(x * tirx.Select(x < constant(x, 0.0), tail, constant(x, 1.0) - tail))


def gelu_tanh(x: Expr) -> Expr:
    """0.5 x (1 + tanh(u)) = x * sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)."""
    scale = -2 * math.sqrt(2 / math.pi)
    minus_2u = x * fma(bind(x * x), constant(x, scale * 0.044715), constant(x, scale))
    return bind(x / (exp(bind(minus_2u)) + constant(x, 1.0)))


def silu(x: Expr) -> Expr:
    """x / (1 + e^-x)."""
    return bind(x / (exp(bind(-x)) + constant(x, 1.0)))


def mish(x: Expr) -> Expr:
    """x * tanh(softplus(x)) = x n / (n + 2) with n = e^x (e^x + 2)."""
    e = bind(exp(bind(at_most(x, 20.0))))
    n = bind(e * (e + constant(x, 2.0)))
    return bind(x * (n / (n + constant(x, 2.0))))


_SIN = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(0, 9))
_COS = tuple((-1) ** k / math.factorial(2 * k) for k in range(0, 10))
_HALF_PI = (1.5707963267341256, 6.0771005065061922e-11, 2.0222662487959506e-21)  # 33 bits, 33 bits, the rest (fdlibm)


def _quarter_turns(x: Expr) -> tuple[Expr, Expr]:
    """(quadrant, rest) of an f64 angle: exact products up to about 2^20 quarter turns."""
    shifted = bind(fma(x, constant(x, 2 / math.pi), constant(x, F64.magic)))
    n = bind(shifted - constant(x, F64.magic))
    rest = x
    for part in _HALF_PI:
        rest = bind(fma(n, constant(x, -part), rest))
    return bind(bits(shifted)), rest


def _turned(x: Expr, quadrant_offset: int) -> Expr:
    """sin(x + quadrant_offset * pi / 2), worked out in f64."""
    wide = bind(x if format_of(x) is F64 else tirx.Cast(_float64(x), x))
    quadrant, rest = _quarter_turns(wide)
    quadrant = bind(quadrant + constant(quadrant, quadrant_offset))
    square = bind(rest * rest)
    odd = tirx.NE(tirx.bitwise_and(quadrant, constant(quadrant, 1)), constant(quadrant, 0))
    value = tirx.Select(odd, polynomial(square, _COS), rest * polynomial(square, _SIN))
    negative = tirx.NE(tirx.bitwise_and(quadrant, constant(quadrant, 2)), constant(quadrant, 0))
    value = bind(value)
    value = tirx.Select(negative, -value, value)
    return bind(value if format_of(x) is F64 else tirx.Cast(x.ty.dtype, value))


def _float64(x: Expr) -> Any:
    return "float64" if x.ty.dtype.lanes == 1 else f"float64x{x.ty.dtype.lanes}"


def sin(x: Expr) -> Expr:
    """Sine of radians; full precision up to about a million radians."""
    return _turned(x, 0)


def cos(x: Expr) -> Expr:
    """Cosine of radians; full precision up to about a million radians."""
    return _turned(x, 1)


def power(x: Expr, y: Expr) -> Expr:
    """x^y as C's pow: f64 inside for f32."""
    if format_of(x) is F32:
        wide = power(bind(tirx.Cast(_float64(x), x)), bind(tirx.Cast(_float64(x), y)))
        return bind(tirx.Cast(x.ty.dtype, wide))
    one, zero = constant(x, 1.0), constant(x, 0.0)
    size = bind(intrinsic("llvm.fabs", x))
    exponent = tirx.Select(tirx.EQ(size, one), zero, y * log(size))  # 1^infinity is 1
    value = bind(exp(bind(exponent)))
    whole = bind(tirx.EQ(intrinsic("llvm.rint", y), y))
    half = bind(y * constant(x, 0.5))
    odd = bind(tirx.And(whole, tirx.NE(intrinsic("llvm.rint", half), half)))
    below = tirx.And(tirx.And(x < zero, size < constant(x, math.inf)), tirx.Not(whole))
    signed = bind(tirx.Select(odd, copysign(value, x), value))
    result = tirx.Select(below, constant(x, math.nan), signed)
    return bind(tirx.Select(tirx.Or(tirx.EQ(x, one), tirx.EQ(y, zero)), one, result))
