"""Prints a module in its text form (`.nir`). The grammar is `ir/grammar.lark`; `ir/parser.py` reads the form back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import inf, isinf, isnan
from types import MappingProxyType
from typing import Any, NamedTuple

from nomul.ir.dim import Atom, Dim, Quotient
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import Kind
from nomul.ir.types import DType, Tensor

VERSION = 1
LOC_COLUMN = 72  # fixed, so that a longer line elsewhere does not move every comment in a diff
RESERVED = frozenset({"inf", "nan", "true", "false", "none"})
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.]+")
_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class Line(NamedTuple):
    """One printed line and what it is about: a node, a function (first and last line, return), a weight, a dim by name,
    or nothing."""

    owner: Node | Func | Weight | str | None
    text: str


def print_module(module: Module, keys: Mapping[str, str] | None = None) -> str:
    """The whole module; ends with a newline. Weights appear by name and type only.

    keys: the names that a weights file has for some of the weights, by name, where they are not those weights' own."""
    return "".join(f"{line.text}\n" for line in module_lines(module, keys or {}))


def module_lines(module: Module, keys: Mapping[str, str] = MappingProxyType({})) -> Iterator[Line]:
    """The lines of `print_module`. Works for modules that the verifier rejects, too."""
    yield Line(None, f"nomul.ir {VERSION}")
    if module.level != "tensor":
        yield Line(None, f"level {module.level}")
    if module.after:
        yield Line(None, f"after {word_text(module.after)}")
    for name, (low, high) in module.dims.items():
        yield Line(name, f"dim {word_text(name)} in [{low}, {high if high == inf else int(high)}]")
    for weight in module.weights.values():
        key = keys.get(weight.name, weight.key)
        source = f" from {string_text(key)}" if key else ""
        yield Line(weight, f"weight {weight_text(weight)} : {type_text(weight.type)}{source}")
    for func in module.funcs.values():
        yield from func_lines(func)


def func_lines(func: Func) -> Iterator[Line]:
    """The lines of one function."""
    params = ", ".join(f"{value_text(param)}: {type_text(param.type)}" for param in func.params)
    names = [f"{word_text(name)}: " for name in func.result_names] or [""] * len(func.returns)
    results = ", ".join(name + type_text(value.type) for name, value in zip(names, func.returns, strict=False))
    yield Line(func, f"func @{name_text(func.name)}({params}) -> ({results}) {{")
    for node in func.nodes:
        yield Line(node, node_text(node))
    yield Line(func, f"  return {', '.join(operand_text(value) for value in func.returns)}".rstrip())
    yield Line(func, "}")


def node_text(node: Node) -> str:
    """One node as it stands in the text, indented, with its source layer."""
    results = ", ".join(value_text(result) for result in node.results)
    types = ", ".join(type_text(result.type) for result in node.results)
    operands = ", ".join(operand_text(arg) for arg in node.args)
    attributes = attributes_text(node)
    if _names_callee(node):
        operands = f"@{name_text(str(node.attrs['func']))}({operands})"
    parts = [node.op, operands, attributes, f": {types}"]
    line = f"  {results} = {' '.join(part for part in parts if part)}"
    return f"{line:{LOC_COLUMN - 1}} loc({string_text(node.loc)})" if node.loc else line


def operand_column(node: Node, position: int) -> int:
    """0-based column of an operand in `node_text(node)`."""
    start = node_text(node).index(" = ") + 3 + len(node.op) + 1
    if _names_callee(node):
        start += len(f"@{name_text(str(node.attrs['func']))}(")
    return start + sum(len(operand_text(arg)) + 2 for arg in node.args[:position])


def _names_callee(node: Node) -> bool:
    return node.spec.kind is Kind.STRUCTURE and "func" in node.attrs


def attributes_text(node: Node) -> str:
    """`{eps=1e-06}`: the attributes that differ from their defaults; empty when none does."""
    shown = []
    for name, value in node.attrs.items():
        attribute = node.spec.attributes.get(name)
        if attribute is not None and _same(value, attribute.default):
            continue
        if name == "func" and _names_callee(node):
            continue
        shown.append(f"{name}={attribute_text(value)}")
    return f"{{{', '.join(shown)}}}" if shown else ""


def _same(value: Any, default: Any) -> bool:
    return value == default and str(value) == str(default)  # the text tells -0.0 from 0.0


def attribute_text(value: Any) -> str:
    """An attribute's value as the grammar writes it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(attribute_text(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Dim):
        return dim_text(value)
    if isinstance(value, str):
        return string_text(value)
    return "none" if value is None else str(value)


def operand_text(value: Value | None) -> str:
    """`%name`, `@weight`, a literal, or `_` for an absent optional operand."""
    if value is None:
        return "_"
    if isinstance(value, Constant):
        return literal_text(value)
    return weight_text(value) if isinstance(value, Weight) else value_text(value)


def value_text(value: Value) -> str:
    return f"%{name_text(value.name)}"


def weight_text(weight: Weight) -> str:
    return f"@{name_text(weight.name)}"


_DEFAULT_DTYPES = (DType.F32, DType.I64, DType.BOOL)


def literal_text(constant: Constant) -> str:
    """The shortest text that reads back as the same number; a dtype suffix unless it is f32, i64 or bool."""
    suffix = "" if constant.dtype in _DEFAULT_DTYPES else f":{constant.dtype}"
    if constant.dtype is DType.BOOL:
        return "true" if constant.value else "false"
    if constant.dtype.is_integer:
        return f"{int(constant.value)}{suffix}"
    return f"{_float_text(constant)}{suffix}"


def _float_text(constant: Constant) -> str:
    number = float(constant.value)
    if isnan(number) or isinf(number):
        return str(number)
    kind = constant.dtype.numpy.type
    if constant.dtype is DType.BF16:  # its own text form is not the shortest
        text = next(text for digits in range(1, 10) if kind(float(text := f"{number:.{digits}g}")) == kind(number))
    else:
        text = str(kind(number))
    return text if "." in text or "e" in text else f"{text}.0"


@lru_cache(maxsize=8192)
def type_text(type: Tensor) -> str:
    """`f32[S, 64]`, and `as ENCODING` behind it for an encoded weight."""
    suffix = f" as {type.encoding}" if type.encoding else ""
    return f"{type.dtype}[{', '.join(dim_text(size) for size in type.shape)}]{suffix}"


def dim_text(dim: Dim) -> str:
    """The size as an expression, names quoted where they need it."""
    return dim.render(_atom_text)


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, Quotient):
        return f"({dim_text(atom.numerator)})//{atom.divisor}"
    return word_text(atom)


def name_text(name: str) -> str:
    """A value's, weight's or function's name, quoted unless it is made of letters, digits, `_` and `.`."""
    return name if _PLAIN_NAME.fullmatch(name) else string_text(name)


def word_text(name: str) -> str:
    """A dim's name, quoted unless it is an identifier."""
    return name if _PLAIN_WORD.fullmatch(name) and name not in RESERVED else string_text(name)


def string_text(text: str) -> str:
    """A quoted string with JSON escapes; letters of any script stay readable."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
