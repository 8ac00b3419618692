"""Reads measured times of steps, as `nomul bench --json --steps` prints them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nomul.ir.errors import NomulError


def read_times(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of the file, checked: it has a time for each run of the artifact that the facts are of.

    Raises NomulError (NM026)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        steps = [(str(step["step"]), float(step["ms"])) for step in found["steps"]]
    except OSError as error:
        raise NomulError("NM026", f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise NomulError(
            "NM026", f"{path} holds no times of steps", help="nomul bench MODEL.so --json --steps"
        ) from None
    names = [run["results"][0].partition(" : ")[0] for run in facts.get("runs", [])]
    if [step[: len(name)] for (step, _), name in zip(steps, names, strict=False)] != names or len(steps) != len(names):
        message = f"{path} has times of another artifact: {len(steps)} steps that are not those of this one"
        raise NomulError("NM026", message, help="measure the artifact of the compile that you look at")
    return dict(found)
