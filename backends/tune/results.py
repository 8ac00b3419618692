"""The file that keeps measured times: JSON for people to read, an entry for each group, CPU, level and version."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomul.backends.tune.rivals import Contest
from nomul.ir.errors import NomulError

FORMAT = 1
Timing = Mapping[str, Sequence[float] | None]  # kernel -> microseconds at each size; None: it cannot serve
_NUMBERS = re.compile(r"\[((?:\s+[\d.e+-]+,?)+)\s+\]")  # a list of numbers, over several lines
_KEY = ("cpu", "level", "nomul", "group")


@dataclass
class Results:
    """cpu, level, version: of the times that are looked up and added; others are kept as they are."""

    path: Path
    cpu: str
    level: str
    version: str
    entries: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def read(path: Path, cpu: str, level: str, version: str) -> Results:
        """What the file holds; nothing where there is none. Raises NomulError (NM406) for a damaged one."""
        try:
            entries = _checked(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
        except (OSError, ValueError) as error:
            message = f"{path} does not hold times of kernels as --tune writes them: {error}"
            raise NomulError("NM406", message, help="delete it: what is missing is measured again") from error
        by_key = {tuple(entry[name] for name in _KEY): entry for entry in entries}
        return Results(path, cpu, level, version, by_key)

    def find(self, contest: Contest) -> Timing | None:
        """The times of the group's kernels, where they are of just those which may serve it now."""
        entry = self.entries.get(self._key(contest))
        if entry is None or set(entry["microseconds"]) != set(contest.names):
            return None
        times: Timing = entry["microseconds"]
        return times if all(found is None or len(found) == len(contest.sizes) for found in times.values()) else None

    def add(self, contest: Contest, times: Timing) -> None:
        func = contest.group.func
        self.entries[self._key(contest)] = {
            **dict(zip(_KEY, self._key(contest), strict=True)),
            "ops": " + ".join(node.op for node in func.nodes),
            "operands": [str(param.type) for param in func.params],
            "sizes": [" ".join(f"{name}={size}" for name, size in at.items()) for at in contest.sizes],
            "microseconds": dict(times),
        }

    def write(self) -> None:
        """The whole file, or none of it. Raises NomulError (NM511)."""
        ordered = sorted(self.entries.values(), key=lambda e: (e["cpu"], e["level"], e["nomul"], e["ops"], e["group"]))
        text = json.dumps({"format": FORMAT, "entries": ordered}, indent=1) + "\n"
        text = _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
        temporary = self.path.with_name(f".{self.path.name}.new")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path)
        except OSError as error:
            help = "is the folder there, may you write to it, and is there room?"
            raise NomulError("NM511", f"cannot write {self.path}: {error.strerror or error}", help=help) from error

    def _key(self, contest: Contest) -> tuple[str, ...]:
        digest = hashlib.blake2b(f"{contest.group.key}\n{contest.sizes}".encode(), digest_size=12)
        return self.cpu, self.level, self.version, digest.hexdigest()


def _checked(data: Any) -> list[dict[str, Any]]:
    """The entries. Raises ValueError."""
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("entries"), list):
        raise ValueError(f"no list of entries in format {FORMAT}")
    for number, entry in enumerate(data["entries"]):
        if not _is_entry(entry):
            raise ValueError(f"entry {number} is damaged")
    entries: list[dict[str, Any]] = data["entries"]
    return entries


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in (*_KEY, "ops")):
        return False
    times = entry.get("microseconds")
    if not isinstance(times, dict) or not times:
        return False
    lists = [found for found in times.values() if found is not None]
    return bool(lists) and all(
        isinstance(found, list) and found and all(type(t) in (int, float) and 0 < t < 1e12 for t in found)
        for found in lists
    )
