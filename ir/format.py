"""Puts a `.nir` file into the printer's form (`nomul fmt`), comments and single blank lines kept where they stand."""

from __future__ import annotations

import re
from typing import NamedTuple

from nomul.ir.parser import parse_module
from nomul.ir.syntax import After, DimLine, FuncLine, Header, Level, WeightLine, parse_line
from nomul.ir.text import print_module

_COMMENTED = re.compile(r'((?:[^";]|"(?:\\.|[^"\\])*")*)(;.*)')
_ORDER = (Header, Level, After, DimLine, WeightLine, FuncLine)  # of statements outside functions, as printed


class _Piece(NamedTuple):
    """One statement. above: comments and blank lines before it.  comment: behind it.  rank: where it is printed."""

    above: tuple[str, ...]
    comment: str
    rank: int


def format_text(text: str) -> str:
    """The text in the printer's form; formatting it again changes nothing. Raises NomulError as `parse_module`."""
    printed = print_module(parse_module(text)).splitlines()
    pieces, below = _pieces(text.split("\n"))
    lines: list[str] = []
    for piece, statement in zip(sorted(pieces, key=lambda piece: piece.rank), printed, strict=True):
        lines += piece.above
        lines.append(f"{statement}  {piece.comment}" if piece.comment else statement)
    return "\n".join(_tidy([*lines, *below])) + "\n"


def _pieces(lines: list[str]) -> tuple[list[_Piece], tuple[str, ...]]:
    """The statements in order, and what stands below the last."""
    pieces: list[_Piece] = []
    above: list[str] = []
    rank = 0
    for line in lines:
        bare = line.strip()
        if not bare or bare.startswith(";"):
            above.append(line.rstrip())
            continue
        kind = type(parse_line(line))
        rank = _ORDER.index(kind) if kind in _ORDER else rank  # lines of a function stay with it
        found = _COMMENTED.fullmatch(bare)
        pieces.append(_Piece(tuple(above), found[2] if found else "", rank))
        above.clear()
    return pieces, tuple(above)


def _tidy(lines: list[str]) -> list[str]:
    """At most one blank line in a row, none at the beginning or the end."""
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return kept[:-1] if kept and not kept[-1] else kept
