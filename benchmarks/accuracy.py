"""What weights lose in each encoding: `python benchmarks/accuracy.py --json results.json [--only minilm,smollm]`.

For each model and each encoding three rows: rounded to the nearest, by the encoding's best fitter, and by that fitter
with calibration data, for some also by one that learns, layers alone and in blocks; then encodings after transforms of
the layers; then other projects' quantisers at the same bits. All layers but the head get the encoding, activations are
floats. Rows that FILE has already are kept, so that a run goes on after an interrupt.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]
import accuracy_table  # these stand beside this file, but for real_models, which stands in examples/
import real_models
from accuracy_methods import PLAIN, Method, methods
from accuracy_subject import Loaded, Subject

from nomul.compare import onnxruntime_of
from nomul.ir.errors import NomulError
from nomul.ir.registry import modules_of

Row = dict[str, Any]


def subjects() -> list[Subject]:
    """The models of all tasks."""
    return [subject for module in modules_of("tasks") for subject in module.subjects()]


class Results:
    """Rows in a file, written after each one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
        self.rows: list[Row] = known.get("rows", [])
        self.skipped: dict[str, str] = {}

    def has(self, subject: Subject, method: Method) -> bool:
        return any(_key(row) == (subject.name, method.label, method.fitter, method.calibrated) for row in self.rows)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if self.path:
            self.path.write_text(json.dumps(self.as_json(), indent=1) + "\n", encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "rows": self.rows}


def _key(row: Row) -> tuple[str, str, str, bool]:
    return row["model"], row["weights"], row["fitter"], row["calibrated"]


def run_subject(subject: Subject, wanted: Sequence[str], results: Results) -> None:
    """All rows that one model does not have yet. wanted: parts of names of encodings, all where it is empty."""
    todo = [
        method
        for method in methods()
        if not results.has(subject, method) and (not wanted or any(part in method.label for part in (*wanted, PLAIN)))
    ]
    if not todo:
        return
    loaded = subject.load()
    plain = loaded.answers(loaded.store.compile(loaded.store.module))
    for number, method in enumerate(todo, 1):
        start = time.perf_counter()
        try:
            row = _row(loaded, method, plain)
        except (NomulError, ImportError) as error:
            results.skipped[f"{subject.name}, {method.label}"] = str(error).splitlines()[0]
            continue
        if row is None:
            continue
        seconds = round(time.perf_counter() - start, 1)
        results.add({"model": subject.name, "main": subject.main, **row, "seconds": seconds})
        print(f"{number}/{len(todo)} {accuracy_table.line(results.rows[-1])}", file=sys.stderr, flush=True)


def _row(loaded: Loaded, method: Method, plain: Any) -> Row | None:
    """None where the model is nothing for the method."""
    facts: Row = {"weights": method.label, "fitter": method.fitter, "calibrated": method.calibrated}
    if method.onnx:
        if loaded.onnx is None:
            return None
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "quantised.onnx"
            bits = method.onnx(loaded.onnx(Path(name)), path)
            run = onnxruntime_of(path)
            assert run is not None
            return facts | {"bits": bits, "error": None, "scores": loaded.judge(loaded.answers(run), plain)}
    store = loaded.store
    if method.trained:
        if loaded.train is None:
            return None
        stored = loaded.train(method.weights)
    elif method.other:
        stored = store.quantised(method.other)
    elif method.weights == PLAIN:
        stored = store.plain()
    elif method.transform:
        stored = store.transformed(method.weights, method.fitter, method.calibrated, method.transform)
    else:
        stored = store.encoded(method.rule, method.calibrated)
    answers = loaded.answers(store.compile(stored.module))
    return facts | {"bits": stored.bits, "error": stored.error, "scores": loaded.judge(answers, plain)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="rows that are there are kept, new ones are added")
    parser.add_argument("--only", default="", metavar="PARTS", help="parts, such as minilm,smollm (see --list)")
    parser.add_argument("--encoding", action="append", default=[], help="only rows whose encoding contains this")
    parser.add_argument("--list", action="store_true", help="print the parts and their models")
    parser.add_argument("--docs", action="store_true", help="put the rows into docs/accuracy.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    parts = [part for part in arguments.only.split(",") if part]
    chosen = [subject for subject in subjects() if not parts or subject.part in parts or subject.name in parts]
    if arguments.list:
        print("\n".join(f"{subject.part}: {subject.name}" for subject in chosen))
        return 0
    results = Results(arguments.json)
    for subject in chosen:
        try:
            run_subject(subject, arguments.encoding, results)
        except (real_models.PackageMissing, ImportError) as error:
            results.skipped[subject.name] = str(error)
    accuracy_table.print_rows(results.as_json())
    if arguments.docs:
        accuracy_table.update_docs(results.as_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
