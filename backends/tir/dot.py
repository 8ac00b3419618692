"""Dot products of four bytes without a sign and four with one, added to 32-bit integers: each level's instructions.

    VNNI             vpdpbusd                                     1 instruction for 4 products in each 32-bit lane
    bytes to 128     vpmaddubsw, vpmaddwd by ones, vpaddd         pairs stay below 2 * 128 * 127, which 16 bits hold
    bytes to 255     vpsignb in front, for bytes less 128, since larger pairs would saturate; AVX-512 has no vpsignb

Vectors of weights and of activations are int32 lanes of four bytes each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tvm import tirx

from nomul.backends.target import Target
from nomul.backends.tir.body import let
from nomul.backends.tir.vectors import spread

Expr = Any
USES = ("avx512vnni", "avxvnni")  # features that kernels made of this look at
_SIGN = -0x7F7F7F80  # 0x80 in each byte
_PAIRS = {64: "avx512.pmaddubs.w.512", 32: "avx2.pmadd.ub.sw", 16: "ssse3.pmadd.ub.sw.128"}
_SUMS = {64: "avx512.pmaddw.d.512", 32: "avx2.pmadd.wd", 16: "sse2.pmadd.wd"}
_SIGNS = {32: "avx2.psign.b", 16: "ssse3.psign.b.128"}


def is_fused(target: Target) -> bool:
    """Whether one instruction multiplies and adds."""
    return not target.features.isdisjoint(USES)


def pair_sums(x: Expr, y: Expr) -> Expr:
    """int32 sums of products of neighbouring 16-bit integers."""
    lanes = int(x.ty.dtype.lanes)
    return tirx.call_llvm_pure_intrin(f"int32x{lanes // 2}", f"llvm.x86.{_SUMS[2 * lanes]}", x, y)


class Weights(NamedTuple):
    """A vector of bytes, made ready to be multiplied by several rows. signed: less 128; None where pairs fit."""

    size: Expr
    signed: Expr | None = None


class Dot:
    """width: bytes of a vector.  wide: whether weights exceed 128.

    bias: what is subtracted from every weight, for the sake of the instructions."""

    def __init__(self, target: Target, wide: bool, width: int = 0) -> None:
        self.width = width or target.vector_bytes
        self.lanes = self.width // 4
        self.is_fused = is_fused(target)
        self._signs = wide and not self.is_fused
        self.bias = 128 if self._signs else 0

    def weights(self, vector: Expr) -> Weights:
        """A vector of weights, int32 lanes."""
        if not self._signs:
            return Weights(let("weights", self._bytes(vector)))
        signed = let("signed", self._bytes(tirx.bitwise_xor(vector, spread(tirx.IntImm("int32", _SIGN), self.lanes))))
        zero = spread(tirx.const(0, "int8"), self.width)
        return Weights(let("size", tirx.max(signed, zero - signed)), signed)

    def add(self, total: Expr, weights: Weights, activations: Expr) -> Expr:
        """int32 lanes: total + (weights - bias) * activations."""
        q = self._bytes(activations)
        if self.is_fused:
            kind = f"llvm.x86.avx512.vpdpbusd.{8 * self.width}"
            return tirx.call_llvm_pure_intrin(self._type("int32", 4), kind, total, weights.size, q)
        if weights.signed is not None:
            q = self._with_sign(q, weights.signed)
        pairs = self._call("int16", 2, _PAIRS[self.width], weights.size, q)
        ones = spread(tirx.const(1, "int16"), self.width // 2)
        return total + pair_sums(pairs, ones)

    def ones(self) -> Weights:
        return Weights(self._bytes(spread(tirx.IntImm("int32", 0x01010101), self.lanes)))

    def _with_sign(self, q: Expr, weights: Expr) -> Expr:
        if self.width in _SIGNS:
            return self._call("int8", 1, _SIGNS[self.width], q, weights)
        zero = spread(tirx.const(0, "int8"), self.width)
        return tirx.Select(weights < zero, zero - q, q)

    def _bytes(self, vector: Expr) -> Expr:
        return tirx.reinterpret(self._type("int8", 1), vector)

    def _call(self, kind: str, size: int, name: str, *args: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin(self._type(kind, size), f"llvm.x86.{name}", *args)

    def _type(self, kind: str, size: int) -> str:
        return f"{kind}x{self.width // size}"
