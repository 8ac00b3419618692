"""2^x as a TIR expression that vectorises: e^x of numbers that are in units of log(2) already, for less work."""

from __future__ import annotations

from tvm import tirx

from nomul.backends.expressions import Expr, bind, constant, polynomial
from nomul.backends.mathlib import F32, bits

_LEAST = -126.0
_EXP2 = (1.0, 0.693147004, 0.240222424, 0.0555073358, 0.00967151299, 0.00132647273)  # minimax, relative error 1.7e-7


def exp2_nonpositive(x: Expr) -> Expr:
    """2^x for x <= 0 (or a little above) in f32; results below 2^-126 become 0.

    Five multiply-adds: what x has beside its nearest integer is exact, and the integer is added to the exponent."""
    magic = constant(x, F32.magic)
    shifted = bind(x + magic)
    power = bind(bits(bind(polynomial(bind(x - bind(shifted - magic)), _EXP2))))
    exponent = bind(bits(shifted))
    scaled = bind(power + tirx.shift_left(exponent, constant(exponent, F32.mantissa)))
    return tirx.Select(x < constant(x, _LEAST), constant(x, 0.0), tirx.reinterpret(x.ty.dtype, scaled))
