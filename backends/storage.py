"""Memory formats of tensors: reading an element as a compute value, and writing one (f16, bf16 and bool convert).

Half floats are stored as uint16 and computed in f32. Machines with F16C (and ARM) convert f16 by instruction, others by
integer arithmetic; bf16 always by integer arithmetic, rounding to nearest even.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.expressions import bind, constant
from nomul.backends.target import Target
from nomul.ir.types import DType

Expr = Any  # a tvm PrimExpr; tvm has no type stubs

_STORED = {DType.F16: "uint16", DType.BF16: "uint16", DType.BOOL: "uint8", DType.F32: "float32", DType.F64: "float64"}


def storage_type(dtype: DType) -> str:
    """TIR's element type of buffers that hold `dtype`."""
    return _STORED.get(dtype) or dtype.numpy.name


def _vector(name: str, like: Expr) -> str:
    lanes = like.ty.dtype.lanes
    return name if lanes == 1 else f"{name}x{lanes}"


def from_storage(raw: Expr, dtype: DType, target: Target) -> Expr:
    """The compute value of what a buffer of `dtype` holds."""
    if dtype is DType.BOOL:
        return tirx.NE(raw, constant(raw, 0))
    if dtype is DType.BF16:
        return widen_bf16(raw)
    if dtype is DType.F16:
        if _has_half(target):
            return tirx.Cast(_vector("float32", raw), tirx.reinterpret(_vector("float16", raw), raw))
        return widen_f16(raw)
    return raw


def to_storage(value: Expr, dtype: DType, target: Target) -> Expr:
    """What to put into a buffer of `dtype` for a compute value."""
    if dtype is DType.BOOL:
        return tirx.Cast(_vector("uint8", value), value)
    if dtype is DType.BF16:
        return narrow_bf16(value)
    if dtype is DType.F16:
        if _has_half(target):
            return tirx.reinterpret(_vector("uint16", value), tirx.Cast(_vector("float16", value), value))
        return narrow_f16(value)
    return value


def rounded(value: Expr, dtype: DType) -> Expr:
    """A compute value rounded to what `dtype` can hold."""
    if dtype is DType.BF16:
        return bind(widen_bf16(bind(narrow_bf16(value))))
    return bind(widen_f16(bind(narrow_f16(value)))) if dtype is DType.F16 else value


def _has_half(target: Target) -> bool:
    return not target.features.isdisjoint({"f16c", "vfp4"}) or target.arch == "aarch64"


def _bits(value: Expr) -> Expr:
    return bind(tirx.reinterpret(_vector("uint32", value), value))


def widen_bf16(raw: Expr) -> Expr:
    """uint16 pattern -> f32."""
    wide = tirx.Cast(_vector("uint32", raw), raw)
    return bind(tirx.reinterpret(_vector("float32", raw), tirx.shift_left(wide, constant(wide, 16))))


def narrow_bf16(value: Expr) -> Expr:
    """f32 -> uint16 pattern, to nearest even; a NaN stays a (quiet) one."""
    pattern = _bits(value)
    odd = tirx.bitwise_and(tirx.shift_right(pattern, constant(pattern, 16)), constant(pattern, 1))
    even = bind(tirx.shift_right(pattern + (odd + constant(pattern, 0x7FFF)), constant(pattern, 16)))
    quiet = tirx.bitwise_or(tirx.shift_right(pattern, constant(pattern, 16)), constant(pattern, 0x40))
    return bind(tirx.Cast(_vector("uint16", value), tirx.Select(tirx.isnan(value), quiet, even)))


def widen_f16(raw: Expr) -> Expr:
    """uint16 pattern -> f32: shift into place and scale by 2^112, which also makes denormals right (F. Giesen)."""
    wide = bind(tirx.Cast(_vector("uint32", raw), raw))
    size = bind(tirx.shift_left(tirx.bitwise_and(wide, constant(wide, 0x7FFF)), constant(wide, 13)))
    sign = tirx.shift_left(tirx.bitwise_and(wide, constant(wide, 0x8000)), constant(wide, 16))
    scaled = tirx.reinterpret(_vector("float32", raw), size)
    scaled = bind(scaled * constant(scaled, 2.0**112))
    special = tirx.bitwise_or(size, constant(size, 0x7F800000))
    chosen = tirx.Select(size >= constant(size, 0x0F800000), special, _bits(scaled))
    return bind(tirx.reinterpret(_vector("float32", raw), tirx.bitwise_or(chosen, sign)))


def narrow_f16(value: Expr) -> Expr:
    """f32 -> uint16 pattern, to nearest even; overflow gives infinity, a NaN stays one."""
    pattern = _bits(value)
    size = bind(tirx.bitwise_and(pattern, constant(pattern, 0x7FFFFFFF)))
    sign = tirx.bitwise_and(tirx.shift_right(pattern, constant(pattern, 16)), constant(pattern, 0x8000))
    odd = tirx.bitwise_and(tirx.shift_right(size, constant(size, 13)), constant(size, 1))
    rebased = bind(tirx.Select(size < constant(size, 0x38800000), constant(size, 0x38800000), size))
    normal = tirx.shift_right(rebased - constant(size, 0x38000000) + odd + constant(size, 0xFFF), constant(size, 13))
    magnitude = tirx.reinterpret(_vector("float32", value), size)
    tiny = _bits(magnitude + constant(magnitude, 0.5)) - constant(size, 0x3F000000)  # 0.5's last place is 2^-24
    result = tirx.Select(size < constant(size, 0x38800000), tiny, normal)
    result = tirx.Select(size >= constant(size, 0x47800000), constant(size, 0x7C00), result)
    result = bind(tirx.Select(size > constant(size, 0x7F800000), constant(size, 0x7E00), result))
    return bind(tirx.Cast(_vector("uint16", value), tirx.bitwise_or(result, sign)))
