"""The annotations of op functions: `f[..., D]`, `i64[N]`, `n[*]`, `like x`.

Before the bracket: an element type (`f32`), a class that all operands with the same letter share (`f` float, `i` and
`j` integer, `n` number, `b` bool, `t` and `u` any), or `$name`, the dtype that an attribute names. Inside: `*` a shape
that broadcasts with the other `*`, `_any` any shape, `...` leading sizes that must agree, a name that must agree (one
that begins with `_` need not), a number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.types import DType, Tensor


class TypeFault(Exception):
    """An op's operands or attributes do not fit its signature. operand: the position of the guilty one, or None."""

    def __init__(self, message: str, operand: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.operand = operand


@dataclass(frozen=True)
class Pattern:
    """like: the operand whose type is repeated, or None. sizes: ("*",) or names, numbers and "..."."""

    text: str
    element: str = ""
    sizes: tuple[str, ...] = ()
    like: str | None = None


_CLASSES: dict[str, tuple[str, Any]] = {
    "f": ("float", lambda d: d.is_float),
    "i": ("integer", lambda d: d.is_integer),
    "j": ("integer", lambda d: d.is_integer),
    "n": ("number", lambda d: d is not DType.BOOL),
    "b": ("bool", lambda d: d is DType.BOOL),
    "t": ("any", lambda d: True),
    "u": ("any", lambda d: True),
}


def parse_pattern(text: str) -> Pattern:
    """Raises ValueError for text that is not an annotation of this language."""
    if text.startswith("like "):
        return Pattern(text, like=text.removeprefix("like ").strip())
    found = re.fullmatch(r"(\$?\w+)\[(.*)\]", text)
    if not found:
        raise ValueError(f"not a type annotation: {text!r}")
    sizes = tuple(size.strip() for size in found[2].split(",") if size.strip())
    return Pattern(text, found[1], sizes)


def broadcast(left: tuple[Dim, ...], right: tuple[Dim, ...], operand: int | None = None) -> tuple[Dim, ...]:
    """Numpy's rule on symbolic sizes: equal, or one of them 1. Raises TypeFault."""
    rank = max(len(left), len(right))
    one = Dim.of(1)
    padded = [(one,) * (rank - len(shape)) + shape for shape in (left, right)]
    sizes = []
    for a, b in zip(*padded, strict=True):
        if a != b and a != one and b != one:
            raise TypeFault(f"shapes [{_text(left)}] and [{_text(right)}] do not broadcast: {a} against {b}", operand)
        sizes.append(b if a == one else a)
    return tuple(sizes)


def match_operand(pattern: Pattern, given: Tensor, bindings: dict[str, Any], what: str, position: int) -> None:
    """Check one operand against its pattern and extend the bindings. Raises TypeFault."""
    _match_element(pattern, given, bindings, what, position)
    if pattern.sizes == ("*",):
        bindings["*"] = broadcast(bindings.get("*", ()), given.shape, position)
        return
    if pattern.sizes == ("_any",):
        return
    shape = given.shape
    if pattern.sizes and pattern.sizes[0] == "...":
        named = pattern.sizes[1:]
        if len(shape) < len(named):
            raise TypeFault(f"{what} must have at least rank {len(named)}, but is {given}", position)
        _bind_name("...", shape[: len(shape) - len(named)], bindings, what, given, position)
        shape = shape[len(shape) - len(named) :]
    else:
        named = pattern.sizes
    if len(shape) != len(named):
        raise TypeFault(f"{what} must have rank {len(named)} ({pattern.text}), but is {given}", position)
    for name, size in zip(named, shape, strict=True):
        _bind_name(name, size, bindings, what, given, position)


def _match_element(pattern: Pattern, given: Tensor, bindings: dict[str, Any], what: str, position: int) -> None:
    if pattern.element not in _CLASSES:
        if given.dtype.value != pattern.element:
            raise TypeFault(f"{what} must be {pattern.element}, but is {given}", position)
        return
    name, accepts = _CLASSES[pattern.element]
    if not accepts(given.dtype):
        raise TypeFault(f"{what} must be of {name} type, but is {given}", position)
    bound = bindings.setdefault(f"dtype {pattern.element}", given.dtype)
    if bound is not given.dtype:
        raise TypeFault(f"{what} must be {bound} like the operands before it, but is {given}", position)


def _bind_name(name: str, size: Any, bindings: dict[str, Any], what: str, given: Tensor, position: int) -> None:
    if name.startswith("_"):
        return
    if name.isdigit():
        bindings[name] = Dim.of(int(name))
    bound = bindings.setdefault(name, size)
    if bound != size:
        raise TypeFault(f"{what}: size {name} must be {_text(bound)}, but is {_text(size)} in {given}", position)


def _text(size: Any) -> str:
    return ", ".join(str(part) for part in size) if isinstance(size, tuple) else str(size)


def check_number(value: float, dtype: DType) -> None:
    """Raises TypeFault for a number that an integer type does not have."""
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        if not (limits.min <= value <= limits.max and value == int(value)):
            raise TypeFault(f"the number {value} is not of type {dtype}")


def result_type(
    pattern: Pattern, bindings: Mapping[str, Any], operands: Mapping[str, Tensor | None], attrs: Mapping[str, Any]
) -> Tensor:
    """The type that a result pattern stands for once the operands are bound."""
    if pattern.like is not None:
        like = operands[pattern.like]
        assert like is not None, f"result is like the absent operand {pattern.like}"
        return Tensor(like.dtype, like.shape)
    shape: tuple[Dim, ...] = ()
    for size in pattern.sizes:
        if size in ("*", "..."):
            shape += bindings.get(size, ())
        else:
            shape += (Dim.of(int(size)) if size.isdigit() else bindings[size],)
    return Tensor(_result_dtype(pattern.element, bindings, attrs), shape)


def _result_dtype(element: str, bindings: Mapping[str, Any], attrs: Mapping[str, Any]) -> DType:
    if element.startswith("$"):
        return attrs[element[1:]]
    if element == "b":
        return DType.BOOL
    return bindings[f"dtype {element}"] if element in _CLASSES else DType(element)
