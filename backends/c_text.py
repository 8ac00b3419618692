"""Pieces of C text: identifiers, strings, comments, size expressions and initialisers. Knows nothing of plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from nomul.ir.dim import Atom, Dim, Range


def identifier(name: str) -> str:
    """`name` with every character that C does not take replaced by `_`."""
    text = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"_{text}" if not text or text[0].isdigit() else text


def unique_identifiers(names: Iterable[str], prefix: str = "") -> dict[str, str]:
    """An identifier for each name; names that look alike in C get a number."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        base = candidate = identifier(prefix + name)
        number = 2
        while candidate in taken:
            candidate, number = f"{base}_{number}", number + 1
        taken.add(candidate)
        found[name] = candidate
    return found


def string(text: str) -> str:
    """A C string literal, UTF-8, pure ASCII in the source."""
    parts = []
    for byte in text.encode():
        char = chr(byte)
        plain = 32 <= byte < 127 and char not in '"\\?'  # `?`: no trigraphs
        parts.append(char if plain else f"\\{byte:03o}")
    return '"' + "".join(parts) + '"'


def comment(text: str) -> str:
    """A one-line C comment, whatever the text holds."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    return f"/* {plain.replace('*/', '* /').replace('/*', '/ *')} */"


def integer(value: int) -> str:
    """An int64_t constant."""
    return str(value) if abs(value) < 2**31 else f"INT64_C({value})"


def expression(dim: Dim, names: Mapping[str, str], ranges: Mapping[str, Range]) -> str:
    """`dim` over the C variables `names`, as int64_t; `/` is floor division where the dividend is not negative."""
    atom = _atom_text(names, ranges)
    parts: list[str] = []
    for monomial, factor in dim.terms:
        factors = [integer(abs(factor))] if abs(factor) != 1 or not monomial else []
        parts += ["-" if factor < 0 else "+", " * ".join(factors + [atom(one) for one in monomial])]
    if not parts:
        return "0"
    first = parts[1] if parts[0] == "+" else f"-{parts[1]}"
    return " ".join([first, *parts[2:]])


def _atom_text(names: Mapping[str, str], ranges: Mapping[str, Range]) -> Callable[[Atom], str]:
    def text(atom: Atom) -> str:
        if isinstance(atom, str):
            return names[atom]
        numerator = expression(atom.numerator, names, ranges)
        if atom.numerator.bounds(ranges)[0] >= 0:
            return f"(({numerator}) / {integer(atom.divisor)})"
        return f"nm_floor_div({numerator}, {integer(atom.divisor)})"

    return text


def table(declaration: str, rows: Iterable[str]) -> str:
    """`static const DECLARATION[] = {rows};`; C has no empty arrays, so none at all for no rows (see `table_name`)."""
    body = "".join(f"  {row},\n" for row in rows)
    return f"static const {declaration}[] = {{\n{body}}};\n" if body else ""


def table_name(name: str, rows: Iterable[object]) -> str:
    """The name of a table for an initialiser; NULL for one without rows."""
    return name if any(True for _ in rows) else "NULL"
