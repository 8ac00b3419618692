"""Reads what `nomul view` shows: the folder of a dump, an artifact, or one .nir file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.parser import parse_module
from nomul.ir.weights_file import load_weights, read_source
from nomul.nir import read_text, weights_path
from nomul.passes.dump import MANIFEST, WEIGHTS
from nomul.report import FACTS
from nomul.view.dump_text import Miss, PassLine, read_index, read_misses, read_refusals


@dataclass(frozen=True)
class Stage:
    """A module between passes, or (module None) a pass that changed nothing. line: of the pass; None for the import."""

    number: int
    name: str
    line: PassLine | None = None
    module: Module | None = None


@dataclass
class Source:
    """All that is known. weights: the file with their data, None where there is none; facts: of the artifact."""

    name: str
    kind: str
    stages: list[Stage]
    weights: Path | None = None
    origin: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    misses: list[Miss] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def read_view_source(path: Path) -> Source:
    """Raises NomulError (NM003, NM025, or as the parser) and RuntimeFault for a file that is no artifact."""
    if path.is_dir():
        return _dump(path)
    if not path.exists():
        raise NomulError("NM003", f"there is no file or folder {path}", help="give a dump, an artifact or a .nir file")
    return _nir(path) if path.suffix == ".nir" else _artifact(path)


def _dump(folder: Path) -> Source:
    files = sorted(folder.glob("*.nir"))
    if not (folder / MANIFEST).is_file() or not files:
        help = "nomul compile MODEL -o OUT --dump FOLDER writes one"
        raise NomulError("NM025", f"{folder} is no dump: it has no .nir files with a list of them", help=help)
    lines = {line.number: line for line in read_index(_text(folder / "index.txt"))}
    stages = [Stage(line.number, line.name, line) for line in lines.values() if not line.changed]
    for file in files:
        number, _, name = file.stem.partition(".")
        count = int(number) if number.isdecimal() else 0
        stages.append(Stage(count, name, lines.get(count), parse_module(read_text(file))))
    stages.sort(key=lambda stage: stage.number)
    weights = folder / WEIGHTS if (folder / WEIGHTS).is_file() else None
    facts = json.loads(_text(folder / FACTS) or "{}")
    last = next(stage.module for stage in reversed(stages) if stage.module is not None)
    source = read_source(load_weights(Module(), weights), last) if weights else {}
    why = _text(folder / "why.txt")
    return Source(
        str(facts.get("name") or source.get("name") or folder.name),
        "dump",
        stages,
        weights,
        str(source.get("origin", "")),
        facts,
        read_misses(why),
        read_refusals(why),
    )


def _nir(path: Path) -> Source:
    weights = next((file for file in (weights_path(path), path.with_name(WEIGHTS)) if file.exists()), None)
    stage = Stage(0, path.stem, None, parse_module(read_text(path)))
    return Source(path.stem, "nir", [stage], weights)


def _artifact(path: Path) -> Source:
    from nomul.runtime.trailer import read_facts

    facts = read_facts(path)
    if "ir" not in facts:
        raise NomulError("NM025", f"{path} does not hold its IR: an older nomul compiled it", help="compile it again")
    stage = Stage(0, "compiled", None, parse_module(facts["ir"]))
    return Source(str(facts["name"]), "artifact", [stage], None, str(facts.get("origin", "")), facts)


def _text(path: Path) -> str:
    """Empty where there is no such file: a failed compile leaves what it has done. Raises NomulError (NM003, NM004)."""
    return read_text(path) if path.exists() else ""
