"""Reads the tables of a dump back: `index.txt` (passes) and `why.txt` (rules that nearly fired, refused kernels)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PASS = re.compile(r" *(\d+)  (\S+) +(\S+) +([\d.]+) +(\d+)  (yes|-) *(.*)")
_MISS = re.compile(r"(\S+) at (%.+?)(?: \((.*?)\))?: (.*) \[(\d+)% matched\]")


@dataclass
class PassLine:
    """One pass. fired: `rule x3, other x1`; notes: lines below it."""

    number: int
    phase: str
    name: str
    milliseconds: float
    nodes: int
    changed: bool
    fired: str
    notes: list[str]


@dataclass(frozen=True)
class Miss:
    """A rule that nearly fired at the value `root`. text: the whole line; matched: percent of the pattern."""

    rule: str
    root: str
    loc: str
    reason: str
    matched: int
    text: str


def read_index(text: str) -> list[PassLine]:
    """The passes in order; lines of other forms belong to the pass above as notes."""
    lines: list[PassLine] = []
    for row in text.splitlines()[1:]:
        if match := _PASS.fullmatch(row):
            number, phase, name, milliseconds, nodes, changed, fired = match.groups()
            line = PassLine(int(number), phase, name, float(milliseconds), int(nodes), changed == "yes", fired, [])
            lines.append(line)
        elif lines and row.strip():
            lines[-1].notes.append(row.strip())
    return lines


def read_misses(text: str) -> list[Miss]:
    """The rules that nearly fired, as the file orders them: the closest first."""
    found = []
    for row in _rules(text):
        if match := _MISS.fullmatch(row):
            rule, root, loc, reason, matched = match.groups()
            found.append(Miss(rule, root, loc or "", reason, int(matched), row))
    return found


def read_refusals(text: str) -> list[str]:
    """A line for each kernel that was refused."""
    return text.partition("\n\n")[2].splitlines()[1:]


def _rules(text: str) -> list[str]:
    return text.partition("\n\n")[0].splitlines()[1:]
