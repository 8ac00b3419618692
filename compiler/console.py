"""Terminal output shared by the sub-commands: tables, sizes, a progress bar that becomes plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from nomul.options import Progress as Report

PIPE_WIDTH = 10_000  # outside a terminal nothing is wrapped or cut


def _console(file: IO[str]) -> Console:
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def say(text: str = "") -> None:
    """One line to standard output, as it is."""
    print(text)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table to standard output; columns whose name ends in a unit or holds numbers are right-aligned."""
    grid = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for position, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[position]) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    _console(sys.stdout).print(grid)


def say_exchanged(facts: Mapping[str, Any]) -> None:
    """A line for every attention that is another one than in the source, from an artifact's facts."""
    for fact in facts.get("exchanged", []):
        say(f"{fact['name']}: softmax attention is {fact['form']} now")


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float) or str(cell)[:1].isdigit()


def size_text(count: float) -> str:
    """Bytes as a reader wants them: `17.4 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def count_text(count: int) -> str:
    """`4096`, `12.3 M`."""
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if count >= limit:
            return f"{count / (1000 if unit == 'k' else limit):.1f} {unit}"
    return str(count)


@contextmanager
def progress_bar(quiet: bool = False) -> Iterator[Report]:
    """A progress report: a bar on a terminal, else one line per phase on standard error, nothing when quiet."""
    if quiet:
        yield lambda phase, fraction: None
    elif sys.stderr.isatty():
        columns = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=_console(sys.stderr), transient=True) as bar:
            task = bar.add_task("start", total=1.0)
            yield lambda phase, fraction: bar.update(task, description=phase, completed=fraction)
    else:
        yield _plain_lines()


def _plain_lines() -> Report:
    last = ""

    def report(phase: str, fraction: float) -> None:
        nonlocal last
        if phase != last:
            print(f"[{fraction:4.0%}] {phase}", file=sys.stderr)
            last = phase

    return report
