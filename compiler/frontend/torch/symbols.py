"""Sizes: torch's symbolic integers (sympy expressions over s0, s27, ...) become `Dim`s over readable names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import sympy
import torch
from torch.fx.experimental.symbolic_shapes import SymT, symbol_is_type

from nomul.frontend.common import DATA_DEPENDENT, UNSUPPORTED_FORM, at_most
from nomul.frontend.torch.errors import Unsupported
from nomul.ir.dim import Dim, Range, ceil_div

_UNBACKED = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)


class Symbols:
    """names: the Dim of every symbol (a constant where the user fixed the size); ranges: of the named dims."""

    def __init__(self, names: Mapping[sympy.Symbol, Dim], ranges: Mapping[str, Range]) -> None:
        self.names = dict(names)
        self.ranges = dict(ranges)

    def dim(self, size: Any) -> Dim:
        """A Dim for an int, a Dim or a torch.SymInt. Raises Unsupported where it depends on data or is no Dim."""
        if isinstance(size, Dim):
            return size
        if isinstance(size, torch.SymInt):
            return self.integer(size.node.expr)
        return Dim.of(int(size))

    def shape(self, sizes: Sequence[Any]) -> tuple[Dim, ...]:
        return tuple(self.dim(size) for size in sizes)

    def integer(self, expression: Any) -> Dim:
        """A sympy integer expression as a Dim."""
        numerator, denominator = self._fraction(expression)
        if denominator != 1:
            raise Unsupported(UNSUPPORTED_FORM, f"the size {expression} is not an integer")
        return numerator

    def number(self, value: Any) -> int | float | bool:
        """The number behind a torch.SymInt, SymFloat or SymBool that is constant once the ranges are known."""
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return value
        expression = value.node.expr
        if isinstance(value, torch.SymBool):
            for symbol in expression.free_symbols:
                self._symbol(symbol)
            if expression.free_symbols:
                raise Unsupported(UNSUPPORTED_FORM, f"the condition {expression} depends on a dynamic size")
            return bool(expression)
        numerator, denominator = self._fraction(expression)
        if numerator.value is None:
            raise Unsupported(UNSUPPORTED_FORM, f"the number {expression} depends on a dynamic size")
        exact = Fraction(numerator.value, denominator)
        return int(exact) if isinstance(value, torch.SymInt) else float(exact)

    def _fraction(self, expression: Any) -> tuple[Dim, int]:
        """(numerator, denominator) of a real expression; the denominator is positive."""
        if isinstance(expression, sympy.Symbol):
            return self._symbol(expression), 1
        if expression.is_Rational:
            return Dim.of(int(expression.p)), int(expression.q)
        if expression.is_Float:
            return _float_fraction(float(expression))
        name = type(expression).__name__
        convert = getattr(self, f"_convert_{name.lower()}", None)
        if convert is None:
            raise Unsupported(UNSUPPORTED_FORM, f"the size {expression} uses {name}, which is not supported")
        return convert(expression, [self._fraction(arg) for arg in expression.args])

    def _symbol(self, symbol: sympy.Symbol) -> Dim:
        if symbol in self.names:
            return self.names[symbol]
        if symbol_is_type(symbol, _UNBACKED):
            raise Unsupported(
                DATA_DEPENDENT, "the size of this result depends on data (for example nonzero, a mask as index)"
            )
        raise Unsupported(UNSUPPORTED_FORM, f"the size {symbol} belongs to no input")

    # Each method takes the expression and its arguments as fractions.
    def _convert_add(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        top, bottom = Dim.of(0), 1
        for numerator, denominator in args:
            top, bottom = top * denominator + numerator * bottom, bottom * denominator
        return _reduced(top, bottom)

    def _convert_mul(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        top, bottom = Dim.of(1), 1
        for numerator, denominator in args:
            top, bottom = top * numerator, bottom * denominator
        return _reduced(top, bottom)

    def _convert_pow(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        exponent = args[1][0].value
        if exponent is None or args[1][1] != 1 or exponent < 0:
            raise Unsupported(UNSUPPORTED_FORM, f"the size {expression} is not a polynomial")
        return self._convert_mul(expression, [args[0]] * exponent)

    _convert_powbynatural = _convert_pow

    def _convert_tofloat(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return args[0]

    _convert_identity = _convert_tofloat

    def _convert_inttruediv(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        (top, bottom), (by_top, by_bottom) = args
        if by_top.value is None and not by_top.divides(top):
            raise Unsupported(UNSUPPORTED_FORM, f"the number {expression} depends on a dynamic size")
        if by_top.value is None:
            return top.divide_exactly(by_top) * by_bottom, bottom
        sign = -1 if by_top.value < 0 else 1
        return _reduced(top * (by_bottom * sign), bottom * by_top.value * sign)

    _convert_floattruediv = _convert_inttruediv

    def _convert_floordiv(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        (top, _), (bottom, _) = args
        try:
            return top // bottom, 1
        except ValueError:
            raise Unsupported(UNSUPPORTED_FORM, f"the size {expression} divides by a dynamic size") from None

    _convert_cleandiv = _convert_floordiv

    def _convert_ceildiv(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return ceil_div(args[0][0], int(args[1][0])), 1

    def _convert_mod(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        if args[1][0].value is None:
            raise Unsupported(UNSUPPORTED_FORM, f"the size {expression} divides by a dynamic size")
        return args[0][0] % int(args[1][0]), 1

    _convert_pythonmod = _convert_mod

    def _convert_modularindexing(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return (args[0][0] // args[1][0]) % int(args[2][0]), 1

    def _convert_floortoint(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return args[0][0] // args[0][1], 1

    _convert_trunctoint = _convert_floortoint  # sizes are not negative

    def _convert_ceiltoint(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return ceil_div(args[0][0], args[0][1]), 1

    def _convert_max(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return self._largest(expression, args, 1)

    def _convert_min(self, expression: Any, args: list[tuple[Dim, int]]) -> tuple[Dim, int]:
        return self._largest(expression, args, -1)

    def _largest(self, expression: Any, args: list[tuple[Dim, int]], sign: int) -> tuple[Dim, int]:
        """The argument that is the largest (sign 1) or the smallest (sign -1) for all sizes in the ranges."""
        dims = [top for top, _ in args]
        for dim in dims:
            if all(at_most(other * sign, dim * sign, self.ranges) for other in dims):
                return dim, 1
        ranges = ", ".join(f"{name} in {list(self.ranges[name])}" for name in sorted(self._names(dims)))
        raise Unsupported(UNSUPPORTED_FORM, f"the size {expression} is not one polynomial for all sizes ({ranges})")

    @staticmethod
    def _names(dims: Sequence[Dim]) -> frozenset[str]:
        return frozenset().union(*(dim.names() for dim in dims))


def _float_fraction(value: float) -> tuple[Dim, int]:
    fraction = Fraction(value).limit_denominator(1 << 20)
    if float(fraction) != value:
        raise Unsupported(UNSUPPORTED_FORM, f"a size depends on the number {value}, which is no simple fraction")
    return Dim.of(fraction.numerator), fraction.denominator


def _reduced(top: Dim, bottom: int) -> tuple[Dim, int]:
    quotient = top // bottom
    return (quotient, 1) if quotient * bottom == top else (top, bottom)
