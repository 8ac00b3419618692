"""The parts of a line of the text form: names, literals, sizes, types. The grammar's rules for them end here.

Sizes in text are small expressions; the limits below keep a hostile file from growing them without end.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from math import isinf
from typing import Any, NamedTuple, TypeVar

import numpy as np
from lark import Token, Transformer, v_args

from nomul.ir.dim import Dim, Quotient
from nomul.ir.encodings import Encoding, all_encodings
from nomul.ir.graph import Constant
from nomul.ir.types import DType, Tensor

MOST_DIGITS, MOST_TERMS, MOST_FACTORS, MOST_NESTING, MOST_AXES = 18, 64, 8, 16, 16
T = TypeVar("T")


class TextFault(Exception):
    """What is wrong in one line. column: 0-based."""

    def __init__(self, code: str, message: str, column: int | None = None, help: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.column, self.help = code, message, column, help


class Name(NamedTuple):
    text: str
    column: int


def column_of(token: Token) -> int:
    return (token.column or 1) - 1


def closest(word: str, known: Iterable[str]) -> str | None:
    """A help line that offers the known words most like this one."""
    found = difflib.get_close_matches(word[:100], list(known), 3, 0.6)
    return f"did you mean {' or '.join(found)}?" if found else None


def name_of(token: Token) -> Name:
    """The name in a token that begins with % or @."""
    text = str(token)[1:]
    return Name(unquoted(token, text) if text.startswith('"') else text, column_of(token))


def unquoted(token: Token, quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        raise TextFault("NM320", f"the quoted string {quoted[:40]} has a wrong escape", column_of(token)) from None


def integer(token: Token) -> int:
    if len(token) > MOST_DIGITS:
        raise TextFault("NM324", f"the number {token[:24]}... has more than {MOST_DIGITS} digits", column_of(token))
    return int(token)


def literal(token: Token) -> Constant:
    """A literal operand. Raises TextFault where it does not fit its dtype."""
    text, _, suffix = str(token).partition(":")
    if text in ("true", "false"):
        return Constant(text == "true", DType.BOOL)
    whole = text.lstrip("-").isdigit()
    dtype = dtype_of(token, suffix) if suffix else (DType.I64 if whole else DType.F32)
    if len(text) > 400 or dtype is DType.BOOL or (dtype.is_integer and not whole):
        raise TextFault("NM324", f"the literal {token[:40]} is not of type {dtype}", column_of(token))
    try:
        with np.errstate(all="ignore"):
            constant = Constant(int(text) if dtype.is_integer else float(text), dtype)
    except OverflowError:
        raise TextFault("NM324", f"the literal {token[:40]} is outside {dtype}", column_of(token)) from None
    if dtype.is_float and isinf(constant.value) and "inf" not in text:
        raise TextFault("NM324", f"the literal {token[:40]} is outside {dtype}", column_of(token))
    return constant


def dtype_of(token: Token, text: str) -> DType:
    known = [dtype.value for dtype in DType]
    if text not in known:
        hint = closest(text, known) or f"element types: {', '.join(known)}"
        raise TextFault("NM322", f"'{text[:40]}' is not an element type", column_of(token), hint)
    return DType(text)


def unique(pairs: Iterable[tuple[Token, T]], what: str) -> dict[str, T]:
    """The pairs as a dictionary. Raises TextFault for a name that comes twice."""
    found: dict[str, T] = {}
    for token, value in pairs:
        if str(token) in found:
            raise TextFault("NM323", f"the {what} '{token}' is given twice", column_of(token))
        found[str(token)] = value
    return found


def _limited(dim: Dim, token: Token) -> Dim:
    too_large = len(dim.terms) > MOST_TERMS or any(
        len(monomial) > MOST_FACTORS or abs(factor) >= 10**MOST_DIGITS for monomial, factor in dim.terms
    )
    if too_large or _nesting(dim) > MOST_NESTING:
        raise TextFault("NM324", "the size is too large an expression", column_of(token))
    return dim


def _nesting(dim: Dim) -> int:
    quotients = [atom for monomial, _ in dim.terms for atom in monomial if isinstance(atom, Quotient)]
    return 1 + max(_nesting(atom.numerator) for atom in quotients) if quotients else 0


def _encoding(name: Token, parameters: dict[str, str | Encoding]) -> Encoding:
    known = all_encodings()
    if name not in known:
        hint = closest(name, known) or f"encodings: {', '.join(known)}"
        raise TextFault("NM322", f"'{name[:40]}' is not an encoding", column_of(name), hint)
    try:
        return known[name].from_text(parameters)
    except (TypeError, ValueError) as error:
        raise TextFault("NM322", f"the parameters of encoding {name} are wrong: {error}", column_of(name)) from None


@v_args(inline=True)
class Expressions(Transformer):
    """Callbacks of the grammar's rules for sizes, types and attribute values, run while parsing."""

    # -- sizes -------------------------------------------------------------------------------------------------
    def number(self, token: Token) -> Dim:
        return Dim.of(integer(token))

    def word(self, token: Token) -> Dim:
        return Dim.of(unquoted(token, str(token)) if token.type == "STRING" else str(token))

    def negate(self, operator: Token, dim: Dim) -> Dim:
        return -dim

    def add(self, left: Dim, operator: Token, right: Dim) -> Dim:
        return _limited(left + right, operator)

    def subtract(self, left: Dim, operator: Token, right: Dim) -> Dim:
        return _limited(left - right, operator)

    def multiply(self, left: Dim, operator: Token, right: Dim) -> Dim:
        return _limited(left * right, operator)

    def divide(self, left: Dim, operator: Token, right: Dim) -> Dim:
        try:
            return _limited(left // right, operator)
        except ValueError as error:
            raise TextFault("NM324", str(error), column_of(operator)) from None

    # -- types -------------------------------------------------------------------------------------------------
    def type(self, dtype: Token, *parts: Dim | Encoding) -> Tensor:
        shape = tuple(part for part in parts if isinstance(part, Dim))
        terms = 1
        for size in shape:
            terms *= max(len(size.terms), 1)
        if len(shape) > MOST_AXES or terms > MOST_TERMS**2:
            raise TextFault("NM324", f"a shape of {len(shape)} such sizes is too large", column_of(dtype))
        encoding = parts[-1] if parts and isinstance(parts[-1], Encoding) else None
        return Tensor(dtype_of(dtype, str(dtype)), shape, encoding)

    def encoding(self, name: Token, *parameters: tuple[Token, str | Encoding]) -> Encoding:
        return _encoding(name, unique(parameters, "parameter"))

    def parameter(
        self, name: Token, value: Token, *parameters: tuple[Token, str | Encoding]
    ) -> tuple[Token, str | Encoding]:
        return name, _encoding(value, unique(parameters, "parameter")) if parameters else str(value)

    # -- attribute values --------------------------------------------------------------------------------------
    def fraction(self, token: Token) -> float:
        return float(token)

    def yes(self) -> bool:
        return True

    def no(self) -> bool:
        return False

    def nothing(self) -> None:
        return None

    def sequence(self, *items: Any) -> tuple[Any, ...]:
        return items
