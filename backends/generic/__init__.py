"""The definition of every op that is not element-wise as a loop nest: what the kernel `any/f32/generic` is made of.

An op has one of three rules, in one file a family here, found by themselves:
- `element`: its result's element at any index, from the operands' elements;
- `line`: a walk along some axes of the result in order, with what the whole line shares worked out first;
- `whole`: all of the result, in a buffer that is read and written freely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from nomul.ir.registry import Registry

Function = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """costly: an element takes a loop of its own, so that it must not be computed twice."""

    kind: Literal["element", "line", "whole"]
    function: Function
    costly: bool


_RULES: Registry[str, Rule] = Registry(__name__, "the generic rule of {}")


def element(op: str, *, costly: bool = False) -> Callable[[Function], Function]:
    """Declare `(pull, node, index) -> element of the result`."""

    def declare(function: Function) -> Function:
        _RULES.add(op, Rule("element", function, costly))
        return function

    return declare


def line(op: str) -> Callable[[Function], Function]:
    """Declare `(pull, node) -> Line`."""

    def declare(function: Function) -> Function:
        _RULES.add(op, Rule("line", function, True))
        return function

    return declare


def whole(op: str) -> Callable[[Function], Function]:
    """Declare `(pull, node, *destinations) -> None`, which fills a `pull.Stored` for each result."""

    def declare(function: Function) -> Function:
        _RULES.add(op, Rule("whole", function, True))
        return function

    return declare


@cache
def rules() -> dict[str, Rule]:
    """The rule of every op that is not element-wise."""
    return _RULES.all()
