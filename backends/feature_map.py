"""The feature maps of linear attention that work element by element, as expressions (any lanes, f32 or f64)."""

from __future__ import annotations

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr
from nomul.backends.expressions import bind, constant


def mapped(x: Expr, name: str) -> Expr:
    """phi(x); x itself for "identity", and for "softmax", which needs a head's elements together."""
    if name in ("identity", "softmax"):
        return x
    zero = constant(x, 0.0)
    if name == "relu":
        return bind(tirx.Select(x > zero, x, zero))
    if name == "exp":
        return bind(mathlib.exp(x))
    power = mathlib.exp_nonpositive if x.ty.dtype.bits == 32 else mathlib.exp
    below = bind(power(bind(tirx.Select(x > zero, zero, x))))
    return bind(tirx.Select(x > zero, x + constant(x, 1.0), below))
