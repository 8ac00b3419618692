"""One line of the text form -> one statement, through `ir/grammar.lark`. What the names mean: `ir/parser.py`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from math import inf, isinf
from typing import Any, NamedTuple

from lark import Lark, Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args
from lark.lexer import PatternStr

from nomul.ir.encodings import Encoding
from nomul.ir.expressions import Expressions, Name, TextFault, closest, column_of, integer, literal, name_of, unique
from nomul.ir.expressions import unquoted as unquote
from nomul.ir.graph import Constant
from nomul.ir.types import Tensor

KEYWORDS = ("nomul.ir", "level", "after", "dim", "weight", "func", "return")


class Header(NamedTuple):
    version: int


class Level(NamedTuple):
    name: Name


class After(NamedTuple):
    label: str


class DimLine(NamedTuple):
    name: str
    low: int
    high: int | float


class WeightLine(NamedTuple):
    """key: the weight's name in its file where that is another one, else empty."""

    name: Name
    type: Tensor
    key: str = ""


class Output(NamedTuple):
    """A result of a function; name: what the source model calls it."""

    name: str | None
    type: Tensor


class FuncLine(NamedTuple):
    name: Name
    params: tuple[tuple[Name, Tensor], ...]
    outputs: tuple[Output, ...]


class Operand(NamedTuple):
    """what: a name (`%x`, or `@w` where is_weight), a literal, or None where the operand is absent."""

    what: str | Constant | None
    column: int
    is_weight: bool = False


class NodeLine(NamedTuple):
    results: tuple[Name, ...]
    op: Name
    callee: Name | None
    operands: tuple[Operand, ...]
    attributes: dict[str, Any]
    types: tuple[Tensor, ...]
    loc: str | None


class Return(NamedTuple):
    operands: tuple[Operand, ...]


class Close(NamedTuple):
    """The line `}`."""


Statement = Header | Level | After | DimLine | WeightLine | FuncLine | NodeLine | Return | Close


def parse_line(text: str) -> Statement:
    """Raises TextFault."""
    try:
        return _parser().parse(text, start="statement")  # type: ignore[return-value]
    except UnexpectedInput as error:
        raise _syntax_fault(error, text) from None


def parse_encoding(text: str) -> Encoding:
    """`ternary<planes=2, group=32>` as in a type. Raises TextFault."""
    try:
        return _parser().parse(text, start="encoding")  # type: ignore[return-value]
    except UnexpectedInput as error:
        raise _syntax_fault(error, text) from None


@cache
def _parser() -> Lark:
    grammar = files("nomul.ir").joinpath("grammar.lark").read_text("utf-8")
    return Lark(
        grammar, parser="lalr", start=["statement", "encoding"], transformer=_Statements(), maybe_placeholders=False
    )


# -- syntax errors in words ------------------------------------------------------------------------------------
_WORDS = {
    "PERCENT": "a value such as %x",
    "AT": "a name such as @main",
    "OP": "an op such as ew.add",
    "WORD": "a name",
    "STRING": 'a "quoted string"',
    "INT": "an integer",
    "FLOAT": "a number",
    "LITERAL": "a literal such as 0.5",
    "PARAMETER": "a parameter",
    "$END": "the end of the line",
}


def _syntax_fault(error: UnexpectedInput, text: str) -> TextFault:
    if isinstance(error, UnexpectedCharacters):
        found, column, names = f"'{text[error.column - 1]}'", error.column - 1, error.allowed
    elif isinstance(error, UnexpectedToken) and error.token.type != "$END":
        found, column, names = f"'{error.token[:40]}'", column_of(error.token), error.accepts or error.expected
    else:
        found, column, names = "the end of the line", len(text.rstrip()), getattr(error, "accepts", None) or set()
    words = text.split(maxsplit=1)
    hint = closest(words[0], KEYWORDS) if words and column == text.find(words[0]) else None
    return TextFault("NM320", f"expected {_expected_text(names or ())}, not {found}", column, hint)


def _expected_text(names: Iterable[str]) -> str:
    patterns = {t.name: f"'{t.pattern.value}'" for t in _parser().terminals if isinstance(t.pattern, PatternStr)}
    words = sorted({_WORDS.get(name) or patterns.get(name, name) for name in names}, key=lambda w: (w[0] == "'", w))
    return " or ".join(", ".join(words).rsplit(", ", 1)) if words else "nothing more"


@v_args(inline=True)
class _Statements(Expressions):
    """Callbacks of the rules of whole lines."""

    def statement(self, statement: Statement) -> Statement:
        return statement

    def header(self, version: Token) -> Header:
        return Header(integer(version))

    def level(self, name: Token) -> Level:
        return Level(Name(str(name), column_of(name)))

    def after(self, label: Any) -> After:
        return After(str(label))

    def dim(self, name: Any, low: float, high: float) -> DimLine:
        if isinf(low):
            raise TextFault("NM324", "the lower bound of a dim cannot be inf")
        return DimLine(str(name), int(low), high)

    def bound(self, token: Token) -> float:
        return inf if token == "inf" else integer(token)

    def weight(self, name: Token, type: Tensor, *key: Token) -> WeightLine:
        return WeightLine(name_of(name), type, unquote(key[0], str(key[0])) if key else "")

    def func(self, name: Token, *rest: Any) -> FuncLine:
        outputs = tuple(part for part in rest if isinstance(part, Output))
        return FuncLine(name_of(name), tuple(rest[: len(rest) - len(outputs)]), outputs)

    def param(self, name: Token, type: Tensor) -> tuple[Name, Tensor]:
        return name_of(name), type

    def output(self, *parts: Any) -> Output:
        if len(parts) == 1:
            return Output(None, parts[0])
        name, type = parts
        return Output(unquote(name, str(name)) if name.type == "STRING" else str(name), type)

    def give(self, *operands: Operand) -> Return:
        return Return(operands)

    def close(self) -> Close:
        return Close()

    # -- nodes -------------------------------------------------------------------------------------------------
    def node(
        self,
        results: tuple[Name, ...],
        op: Token,
        operands: tuple[Name | None, tuple[Operand, ...]],
        attributes: dict[str, Any],
        types: tuple[Tensor, ...],
        loc: str | None,
    ) -> NodeLine:
        return NodeLine(results, Name(str(op), column_of(op)), *operands, attributes, types, loc)

    def results(self, *names: Token) -> tuple[Name, ...]:
        return tuple(name_of(name) for name in names)

    def callee(self, name: Token, operands: tuple[None, tuple[Operand, ...]]) -> tuple[Name, tuple[Operand, ...]]:
        return name_of(name), operands[1]

    def operands(self, *operands: Operand) -> tuple[None, tuple[Operand, ...]]:
        return None, operands

    def value(self, token: Token) -> Operand:
        return Operand(*name_of(token))

    def constant(self, token: Token) -> Operand:
        return Operand(*name_of(token), is_weight=True)

    def literal(self, token: Token) -> Operand:
        return Operand(literal(token), column_of(token))

    def absent(self, token: Token) -> Operand:
        return Operand(None, column_of(token))

    def attributes(self, *pairs: tuple[Token, Any]) -> dict[str, Any]:
        return unique(pairs, "attribute")

    def attribute(self, name: Token, value: Any) -> tuple[Token, Any]:
        return name, value

    def types(self, *types: Tensor) -> tuple[Tensor, ...]:
        return types

    def loc(self, *text: Token) -> str | None:
        return unquote(text[0], str(text[0])) if text else None
