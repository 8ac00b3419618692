"""What the reader of `.nir` promises for any text: a module that prints and reads back alike, or errors that point."""

from __future__ import annotations

from nomul.ir.errors import NomulError
from nomul.ir.format import format_text
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module


def hold(text: str) -> Module | NomulError:
    """The module or the error. Raises AssertionError, or what the reader should not raise."""
    try:
        module = parse_module(text)
    except NomulError as error:
        for problem in error.problems:
            what = f"{problem} for {text!r}"
            assert problem.code.startswith("NM3") and problem.message, what
            assert problem.line is not None and problem.text is not None and problem.column is not None, what
            assert 0 <= problem.column <= max(len(problem.text), 1), what
        assert str(error)
        return error
    printed = print_module(module)
    again = parse_module(printed)
    assert print_module(again) == printed
    formatted = format_text(text)
    assert print_module(parse_module(formatted)) == printed
    assert format_text(formatted) == formatted
    return module
