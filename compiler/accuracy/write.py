"""Writes accuracy reports to files, once a model is compiled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.options import Options
from nomul.passes.choice import Recipe

SUFFIXES = (".html", ".json")


def check_paths(paths: Sequence[Path]) -> None:
    """Raises NomulError (NM028) for a file of another kind or in no folder, before the work and not after it."""
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise NomulError("NM028", f"a report is a .html or a .json file, not {path}", help="--report report.html")
        if not path.absolute().parent.is_dir():
            raise NomulError("NM028", f"cannot write {path}: there is no such folder", help="make it first")


def write_reports(module: Module, options: Options, library: Path, paths: Sequence[Path]) -> None:
    """The report in each file, as its suffix says. module: as imported.  library: what became of it.

    Raises NomulError (NM028) where a file cannot be written."""
    from nomul import pipeline
    from nomul.accuracy.page import page
    from nomul.accuracy.report import measure

    def progress(text: str, fraction: float) -> None:
        options.progress(f"report: {text}", fraction)

    plain = replace(options, dump=None, check=False)
    fused = pipeline.optimise(module, replace(plain, until="fuse", recipe=Recipe()))
    transformed = pipeline.optimise(fused, replace(plain, until="transform"))
    data = measure(fused, transformed, pipeline.encode_pass(options), library, options.name, progress)
    for path in paths:
        text = page(data) if path.suffix == ".html" else json.dumps(data, indent=1) + "\n"
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise NomulError("NM028", f"cannot write {path}: {error.strerror}") from None
    options.progress("done", 1.0)
