"""What each error code means and what to do: the sections `## NMxxx Title` of the Markdown files in this folder."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nomul.ir.errors import NomulError

_HEADING = re.compile(r"^## (NM\d{3}) (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Explanation:
    code: str
    title: str
    text: str


@cache
def all_explanations() -> dict[str, Explanation]:
    """Explanations by code, in order of code. Raises ValueError where a code is explained twice."""
    found: dict[str, Explanation] = {}
    for path in sorted(Path(__file__).parent.glob("*.md")):
        parts = _HEADING.split(path.read_text(encoding="utf-8"))[1:]
        for code, title, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            if code in found:
                raise ValueError(f"{code} is explained twice")
            found[code] = Explanation(code, title.strip(), text.strip())
    return dict(sorted(found.items()))


def explain(code: str) -> Explanation:
    """The explanation of a code, in any case. Raises NomulError (NM011) for an unknown one, with the nearest."""
    known = all_explanations()
    if code.upper() not in known:
        near = ", ".join(difflib.get_close_matches(code.upper(), known, 3)) or "nomul list errors"
        raise NomulError("NM011", f"there is no error code '{code}'", help=f"see: {near}")
    return known[code.upper()]
