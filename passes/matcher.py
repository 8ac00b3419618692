"""Patterns of graphs, written like builds: `g.ew.mul(x, g.ew.sigmoid(x))`, and their matching against a value.

A pattern's variables are the parameters of the function that makes it; an annotation narrows them (`eps: Constant`,
`gamma: Weight | None`). Commutative ops match in both orders, `g.any_of(...)` tries alternatives, a number matches a
literal close to it. Attributes match by equality, by a predicate, or are captured with `g.attr(name)`; a negative axis
counts from the last axis of the first operand. Every failure leaves its reason, and the closest one is kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isclose
from typing import Any

from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.ir.op import get_op
from nomul.ir.text import operand_text
from nomul.ir.types import DType

CLOSE = 1e-4  # relative difference between a literal and a pattern's number

_KINDS: dict[str, type] = {"Constant": Constant, "Weight": Weight}


@dataclass(eq=False)
class Pattern:
    """label: the name under which a match shows what this part bound."""

    label: str | None = field(default=None, kw_only=True)


@dataclass(eq=False)
class Variable(Pattern):
    """kinds: what it may bind (empty: anything).  optional: also an absent operand."""

    kinds: tuple[type, ...] = ()
    optional: bool = False

    @staticmethod
    def of(label: str, annotation: str) -> Variable:
        words = [word.strip() for word in annotation.split("|")]
        kinds = tuple(_KINDS[word] for word in words if word in _KINDS)
        return Variable(kinds, "None" in words, label=label)


@dataclass(eq=False)
class Literal(Pattern):
    value: float = 0.0


@dataclass(eq=False)
class OpPattern(Pattern):
    ops: tuple[str, ...]
    args: tuple[Pattern, ...]
    attrs: dict[str, Any]
    commutative: bool = False


@dataclass(eq=False)
class Choice(Pattern):
    alternatives: tuple[Pattern, ...]


@dataclass(frozen=True)
class Capture:
    """Binds an attribute's value under a name."""

    name: str


PatternLike = Pattern | float


class PatternBuilder:
    """`g` of a pattern function: `g.FAMILY.OP(operands, attr=condition, bind="name")`."""

    def __getattr__(self, family: str) -> _Family:
        if family.startswith("_"):
            raise AttributeError(family)
        return _Family(self, family)

    def op(self, ops: str | tuple[str, ...], *args: PatternLike, bind: str | None = None, **attrs: Any) -> OpPattern:
        """One node of any of the named ops."""
        names = (ops,) if isinstance(ops, str) else ops
        commutative = len(args) == 2 and all(get_op(name).commutative for name in names)
        return OpPattern(names, tuple(as_pattern(arg) for arg in args), attrs, commutative, label=bind)

    def any_of(self, *alternatives: PatternLike, bind: str | None = None) -> Choice:
        """The first alternative that matches (later ones are tried where the rest of the pattern then fails)."""
        return Choice(tuple(as_pattern(a) for a in alternatives), label=bind)

    def maybe(self, make: Callable[[Pattern], Pattern], x: Pattern) -> Choice:
        """`make(x)`, or `x` alone."""
        return Choice((make(x), x))

    def cast(self, x: Pattern) -> Choice:
        """x, behind a cast or not."""
        return Choice((self.op("ew.cast", x), x))

    def attr(self, name: str) -> Capture:
        return Capture(name)


class _Family:
    def __init__(self, builder: PatternBuilder, family: str) -> None:
        self._builder = builder
        self._family = family

    def __getattr__(self, name: str) -> Callable[..., OpPattern]:
        def build(*args: PatternLike, **attrs: Any) -> OpPattern:
            return self._builder.op(f"{self._family}.{name.rstrip('_')}", *args, **attrs)

        return build


def as_pattern(part: PatternLike) -> Pattern:
    return part if isinstance(part, Pattern) else Literal(float(part))


@dataclass(frozen=True)
class Compiled:
    """A pattern function's result. names: every name that a match may bind."""

    root: Pattern
    names: frozenset[str]
    size: int  # op nodes on its largest alternative

    @property
    def root_ops(self) -> tuple[str, ...]:
        """Ops that may stand at the root."""
        return tuple(dict.fromkeys(_root_ops(self.root)))


def _root_ops(pattern: Pattern) -> Iterator[str]:
    if isinstance(pattern, OpPattern):
        yield from pattern.ops
    elif isinstance(pattern, Choice):
        for alternative in pattern.alternatives:
            yield from _root_ops(alternative)


def compile_pattern(function: Callable[..., Pattern]) -> Compiled:
    """Call the pattern function with a builder and one variable for each of its other parameters."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variables = []
    for parameter in parameters:
        text = "" if parameter.annotation is inspect.Parameter.empty else str(parameter.annotation)
        variables.append(Variable.of(parameter.name, text))
    root = function(PatternBuilder(), *variables)
    names = set(_labels(root)) | {variable.label for variable in variables}
    return Compiled(root, frozenset(name for name in names if name), len(_largest(root)))


def _labels(pattern: Pattern) -> Iterator[str]:
    if pattern.label:
        yield pattern.label
    parts: tuple[Pattern, ...] = ()
    if isinstance(pattern, OpPattern):
        parts = pattern.args
        yield from (value.name for value in pattern.attrs.values() if isinstance(value, Capture))
    elif isinstance(pattern, Choice):
        parts = pattern.alternatives
    for part in parts:
        yield from _labels(part)


def _largest(pattern: Pattern) -> frozenset[Pattern]:
    """The op nodes of a pattern with its largest alternatives."""
    if isinstance(pattern, OpPattern):
        return frozenset([pattern]).union(*(_largest(arg) for arg in pattern.args))
    if isinstance(pattern, Choice):
        return max((_largest(alternative) for alternative in pattern.alternatives), key=len)
    return frozenset()


class Match:
    """What a pattern bound: attributes by name, None for a name on an alternative not taken. root: the matched node."""

    def __init__(self, root: Node, bound: Mapping[Any, Any], names: frozenset[str]) -> None:
        self.root = root
        self._bound = bound
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(f"the pattern binds no '{name}'")
        return self._bound.get(name)


@dataclass
class Failure:
    """The deepest failed attempt. matched: op nodes that fitted before it."""

    matched: int = -1
    reason: str = ""
    culprit: str = ""


Bound = dict[Any, Any]  # names and patterns -> what they bound


class Matcher:
    """One attempt to match a compiled pattern at a node. After a failure `failure` says what was closest."""

    def __init__(self, compiled: Compiled) -> None:
        self._compiled = compiled
        self.failure = Failure()

    def matches(self, node: Node) -> Iterator[Match]:
        """Every way in which the pattern fits with `node` as its root."""
        for bound in self._match(self._compiled.root, node.results[0], {"": 0}):
            yield Match(node, bound, self._compiled.names)

    def _match(self, pattern: Pattern, value: Value | None, bound: Bound) -> Iterator[Bound]:
        if pattern in bound:
            if _same(bound[pattern], value):
                yield bound
            else:
                self._fail(bound, value, f"needs {_text(bound[pattern])} again, found {_text(value)}")
            return
        if isinstance(pattern, Choice):
            for alternative in pattern.alternatives:
                for found in self._match(alternative, value, bound):
                    yield self._bind(pattern, value, found)
        elif isinstance(pattern, OpPattern):
            yield from self._match_op(pattern, value, bound)
        elif reason := _leaf_fault(pattern, value):
            self._fail(bound, value, reason)
        else:
            yield self._bind(pattern, value, bound)

    def _match_op(self, pattern: OpPattern, value: Value | None, bound: Bound) -> Iterator[Bound]:
        node = value.producer if value is not None else None
        if node is None or node.op not in pattern.ops or len(node.args) > len(pattern.args):
            found = node.op if node is not None else _text(value)
            self._fail(bound, value, f"needs {' or '.join(pattern.ops)}, found {found}")
            return
        captured = self._match_attrs(pattern, node, bound)
        if captured is None:
            return
        start = self._bind(pattern, value, captured | {"": bound[""] + 1})
        args = (*node.args, *(None,) * (len(pattern.args) - len(node.args)))
        orders = (args, args[::-1]) if pattern.commutative else (args,)
        for order in orders:
            yield from self._match_args(pattern.args, order, start)

    def _match_args(
        self, patterns: tuple[Pattern, ...], args: tuple[Value | None, ...], bound: Bound
    ) -> Iterator[Bound]:
        if not patterns:
            yield bound
            return
        for found in self._match(patterns[0], args[0], bound):
            yield from self._match_args(patterns[1:], args[1:], found)

    def _match_attrs(self, pattern: OpPattern, node: Node, bound: Bound) -> Bound | None:
        captured = dict(bound)
        rank = node.args[0].type.rank if node.args and node.args[0] is not None else 0
        for name, wanted in pattern.attrs.items():
            given = node.attrs[name]
            if isinstance(wanted, Capture):
                captured[wanted.name] = given
            elif not _attr_fits(wanted, given, rank):
                text = "another value" if callable(wanted) else str(wanted)
                deeper = bound | {"": bound[""] + 1}  # the op itself fitted
                self._fail(deeper, node.results[0], f"{node.op} has {name}={given}, needs {text}")
                return None
        return captured

    @staticmethod
    def _bind(pattern: Pattern, value: Value | None, bound: Bound) -> Bound:
        extended = bound | {pattern: value}
        if pattern.label:
            extended[pattern.label] = value
        return extended

    def _fail(self, bound: Bound, value: Value | None, reason: str) -> None:
        if bound[""] > self.failure.matched:
            self.failure = Failure(bound[""], reason, _text(value))


def _leaf_fault(pattern: Pattern, value: Value | None) -> str | None:
    """Why a variable or a literal does not fit, or None."""
    if isinstance(pattern, Literal):
        if not isinstance(value, Constant) or value.dtype is DType.BOOL:
            return f"needs the number {pattern.value:g}, found {_text(value)}"
        fits = isclose(float(value.value), pattern.value, rel_tol=CLOSE)
        return None if fits else f"needs the number {pattern.value:g}, found {_text(value)}"
    assert isinstance(pattern, Variable)
    if value is None:
        return None if pattern.optional else f"the operand '{pattern.label}' is absent"
    if pattern.kinds and not isinstance(value, pattern.kinds):
        kinds = " or ".join(kind.__name__.lower() for kind in pattern.kinds)
        return f"'{pattern.label}' must be a {kinds}, found {_text(value)}"
    return None


def _attr_fits(wanted: Any, given: Any, rank: int) -> bool:
    if callable(wanted):
        return bool(wanted(given))
    if isinstance(wanted, tuple) and isinstance(given, tuple):
        return len(wanted) == len(given) and all(_attr_fits(w, g, rank) for w, g in zip(wanted, given, strict=True))
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted < 0:
        return bool(given == rank + wanted)
    return bool(given == wanted)


def _same(left: Value | None, right: Value | None) -> bool:
    if isinstance(left, Constant) and isinstance(right, Constant):
        return left.value == right.value and left.dtype is right.dtype
    return left is right


def _text(value: Value | None) -> str:
    return "nothing" if value is None else operand_text(value)
