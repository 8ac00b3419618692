"""Pieces of C expressions: text with how tightly it binds, its C type, and what its value can be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nomul.backends.portable_c.intervals import INT32, INT64, Interval, exactly, full

# How tightly an expression binds; a larger number needs parentheses inside a smaller one.
ATOM, UNARY, PRODUCT, SUM, SHIFT, COMPARISON, EQUALITY, BITS, AND, OR, CONDITIONAL = range(11)

_C_TYPES = {"float32": "float", "float64": "double", "bool": "uint8_t"}


class Unprintable(Exception):
    """What the printer has no C for; the text says what that is."""


@dataclass(frozen=True)
class Term:
    """kind: the C type in which C computes with it (integers below 32 bits count as int32_t, which is what they are
    promoted to).  interval: what an integer or truth value can be; None for floats.  unsigned: the same number modulo
    2^32 or 2^64 in an unsigned type, where it is at hand."""

    text: str
    level: int
    kind: str
    interval: Interval | None = None
    unsigned: str = ""

    def within(self, level: int) -> str:
        """The text as an operand of an operator that takes operands of `level` without parentheses."""
        return self.text if self.level <= level else f"({self.text})"

    @property
    def integers(self) -> Interval:
        assert self.interval is not None, f"{self.text} is no integer"
        return self.interval


def c_type(dtype: str) -> str:
    """The C type of memory that holds a TIR type. Raises Unprintable for vectors and half floats."""
    if "x" in dtype or dtype in ("float16", "bfloat16", "handle"):
        raise Unprintable(f"values of type {dtype}")
    return _C_TYPES.get(dtype, f"{dtype}_t")


def kind_of(dtype: str) -> str:
    """The C type that values of a TIR type are computed in."""
    small = dtype in ("bool", "int8", "uint8", "int16", "uint16", "int32")
    return "int32_t" if small else c_type(dtype)


def truth(value: bool) -> Term:
    return Term(str(int(value)), ATOM, "int32_t", exactly(int(value)))


def integer(value: int, dtype: str) -> Term:
    """A literal of an integer type."""
    kind, range_ = kind_of(dtype), exactly(value)
    if kind == "uint32_t":
        return Term(f"{value}u", ATOM, kind, range_)
    if kind == "uint64_t":
        return Term(f"UINT64_C({value})", ATOM, kind, range_)
    if value in (INT32.low, INT64.low):
        return Term("INT32_MIN" if value == INT32.low else "INT64_MIN", ATOM, kind, range_)
    if range_ in INT32:
        return Term(str(value), ATOM if value >= 0 else UNARY, "int32_t", range_)
    return Term(f"INT64_C({value})", ATOM, "int64_t", range_)


def real(value: float, dtype: str) -> Term:
    """A literal of a float type: the shortest decimal that reads back to the same number."""
    kind = kind_of(dtype)
    number = float(np.float32(value)) if kind == "float" else value
    if math.isnan(number):
        return Term("NAN" if kind == "float" else "(double)NAN", UNARY, kind)
    if math.isinf(number):
        text = "INFINITY" if kind == "float" else "(double)INFINITY"
        return Term(f"-{text}" if number < 0 else text, UNARY, kind)
    text = str(np.float32(number)) if kind == "float" else repr(number)
    text = text if set(text) & set(".e") else f"{text}.0"
    level = ATOM if math.copysign(1, number) > 0 else UNARY
    return Term(f"{text}f" if kind == "float" else text, level, kind)


def cast(term: Term, kind: str, interval: Interval | None = None) -> Term:
    return Term(f"({kind}){term.within(UNARY)}", UNARY, kind, interval or term.interval)


def wrapped(x: Term, sign: str, y: Term, dtype: str) -> Term:
    """`x sign y` for signed integers, wrapped around where it overflows: C defines that for unsigned types only."""
    wide = dtype == "int64"
    text = f"{_unsigned(x, wide)} {sign} {_unsigned(y, wide)}"
    at_hand = f"({text})" if dtype in ("int32", "int64") else ""
    return Term(f"({c_type(dtype)})({text})", UNARY, kind_of(dtype), full(dtype), at_hand)


def _unsigned(term: Term, wide: bool) -> str:
    kind = "uint64_t" if wide else "uint32_t"
    if term.unsigned and (term.kind == "int64_t") == wide:
        return term.unsigned
    if term.text.isdecimal():
        return f"UINT64_C({term.text})" if wide else f"{term.text}u"
    return cast(term, kind).text


def signed(x: Term, sign: str, y: Term, level: int, interval: Interval, dtype: str) -> Term:
    """`x sign y` in the narrowest of int32_t and int64_t that holds it. interval: its value without overflow."""
    if interval.low == interval.high:
        return integer(interval.low, dtype)
    if interval not in full(dtype):
        return wrapped(x, sign, y, dtype)
    if sign == "+" and "0" in (x.text, y.text):
        return y if x.text == "0" else x
    wide = "int64_t" in (x.kind, y.kind)
    if not wide and interval not in INT32:
        x, wide = cast(x, "int64_t"), True
    return Term(f"{x.within(level)} {sign} {y.within(level - 1)}", level, "int64_t" if wide else "int32_t", interval)
