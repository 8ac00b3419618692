"""Whole models with recipes, beside onnxruntime in floats and with its dynamic quantisation to eight bits.

Part of benchmarks/models.py (`--recipes int8,w4`). Accuracy of sentence encoders is that of benchmarks/accuracy.py; of
other models it is the mean cosine between rows of the output and what onnxruntime computes in floats for random inputs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import limits
import numpy as np
from results import PAGE, put, show

import nomul
from nomul.api import lower
from nomul.compare import Implementation, onnxruntime_of
from nomul.console import size_text
from nomul.nir import write_nir
from nomul.sample import artifact_specs, pick_dims, sample_inputs
from nomul.timing import measure

RECIPES = ("int8", "w4", "ternary2", "sherry", "lut2", "shift")
COSINE = "cosine to fp32"
PLAIN = "f32"
FLOATS, EIGHT_BITS = "onnxruntime f32", "onnxruntime int8"
START, END = "<!-- results: benchmarks/models.py --recipes --docs -->", "<!-- end of recipe results -->"
COLUMNS = (
    "model",
    "sizes",
    "threads",
    "system",
    "weights",
    "ms",
    "fastest ms",
    "times as fast as its f32",
    "as its int8",
    COSINE,
    "Spearman",
)
Row = dict[str, Any]
Scores = dict[str, float]


@dataclass(frozen=True)
class _Contender:
    """run: from (inputs, threads=number) to outputs.  weights_bytes: of the weights, or of the ONNX file."""

    run: Callable[..., Sequence[np.ndarray]]
    weights_bytes: int


def run_entry(entry: Any, recipes: Sequence[str], threads: Sequence[int], seconds: float, keep: Path) -> Iterator[Row]:
    """Rows of one model (`models.Entry`): for each size and number of threads one for each system.

    keep: folder of models with encoded weights, where those of an earlier run are found again."""
    subject = entry.load()
    keep.mkdir(parents=True, exist_ok=True)
    artifacts = {f"nomul {recipe}": _artifact(entry, subject, recipe, keep) for recipe in (PLAIN, *recipes)}
    plain = artifacts["nomul f32"]
    samples = [sample_inputs(artifact_specs(plain), pick_dims(plain.dims, case)) for case in entry.cases]
    with tempfile.TemporaryDirectory() as name:
        found = {name: _ours(artifact) for name, artifact in artifacts.items()}
        found |= {name: _theirs(file) for name, file in onnx_files(subject, Path(name)).items()}
        scores = _scores(entry.name, found, samples[-1])
        for count in threads:
            for case, values in zip(entry.cases, samples, strict=True):
                facts = {"model": entry.name, "dims": case, "threads": count}
                for row in _measure(found, values, count, seconds):
                    yield facts | row | scores[row["system"]]


def _ours(artifact: nomul.Artifact) -> _Contender:
    return _Contender(lambda values, threads: artifact(*values, threads=threads), artifact.facts["weights"]["bytes"])


def _theirs(file: Path) -> _Contender:
    sessions: dict[int, Implementation | None] = {}

    def run(values: Sequence[np.ndarray], threads: int) -> Sequence[np.ndarray]:
        if threads not in sessions:
            sessions[threads] = onnxruntime_of(file, threads)
        session = sessions[threads]
        assert session is not None
        return session(values)

    return _Contender(run, file.stat().st_size)


def _artifact(entry: Any, subject: Any, recipe: str, keep: Path) -> nomul.Artifact:
    """Weights are fitted once; kernels are compiled for every run."""
    path = keep / f"{re.sub('[^A-Za-z0-9]+', '-', entry.name)}-{recipe}.nir"
    if not path.exists():
        options = dict(subject.options)
        example = options.pop("example_inputs", None)
        chosen = None if recipe == PLAIN else recipe
        write_nir(lower(subject.model, example, until="encode", dims=entry.dims, recipe=chosen, **options), path)
    return nomul.compile(path)


def onnx_files(subject: Any, folder: Path) -> dict[str, Path]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    floats, target = subject.onnx(folder), folder / "int8.onnx"
    quantize_dynamic(floats, target, weight_type=QuantType.QInt8, per_channel=True)
    return {FLOATS: floats, EIGHT_BITS: target}


def _scores(name: str, found: Mapping[str, _Contender], values: Sequence[np.ndarray]) -> dict[str, Scores]:
    """Accuracy of each system."""
    from tasks import sentences

    answers, judge = sentences.task() if name in sentences.ENTRIES.values() else (partial(_outputs, values), _likeness)
    given = {system: answers(partial(one.run, threads=1)) for system, one in found.items()}
    return {system: _shown(judge(mine, given[FLOATS])) for system, mine in given.items()}


def _shown(scores: Scores) -> Scores:
    return {name: round(value, 5) for name, value in scores.items() if name in (COSINE, "Spearman")}


def _outputs(values: Sequence[np.ndarray], run: Implementation) -> np.ndarray:
    return np.asarray(run(values)[-1], np.float64)


def _likeness(given: np.ndarray, expected: np.ndarray) -> Scores:
    norms = np.linalg.norm(expected, axis=-1) * np.linalg.norm(given, axis=-1)
    return {COSINE: float(((expected * given).sum(axis=-1) / norms).mean())}


def _measure(
    found: Mapping[str, _Contender], values: Sequence[np.ndarray], threads: int, seconds: float
) -> Iterator[Row]:
    times = measure(
        {name: partial(one.run, values, threads=threads) for name, one in found.items()}, seconds * len(found)
    )
    for name, one in found.items():
        yield {
            "system": name,
            "weights_bytes": one.weights_bytes,
            "ms": round(times[name].p50, 4),
            "low_ms": round(times[name].low, 4),
            "p90_ms": round(times[name].p90, 4),
            "times_f32": round(times[FLOATS].p50 / times[name].p50, 3),
            "times_int8": round(times[EIGHT_BITS].p50 / times[name].p50, 3),
        }


def line(row: Row) -> str:
    """One row while the benchmark runs."""
    return (
        f"{row['model']} {row['dims']} threads={row['threads']} {row['system']:18} {row['ms']:8.3f} ms, "
        f"{row['times_f32']:.2f} times as fast as f32, {row['times_int8']:.2f} as int8, cosine {row[COSINE]:.4f}"
    )


def print_results(result: dict[str, Any]) -> None:
    """All of it, for the terminal."""
    show(COLUMNS, _cells, _limits(result), result)


def update_docs(result: dict[str, Any]) -> None:
    """Replaces the results in docs/benchmarks.md."""
    put(PAGE, (START, END), COLUMNS, _cells, _limits(result), result)


def _limits(result: dict[str, Any]) -> Iterator[str]:
    for when in ("before", "after"):
        for item in result[f"limits_{when}"]:
            yield f"limits {when}, {limits.text(limits.Limits(**item))}"


def _cells(row: Row) -> tuple[str, ...]:
    spearman = row.get("Spearman")
    return (
        row["model"],
        " ".join(f"{name}={size}" for name, size in row["dims"].items()),
        str(row["threads"]),
        row["system"],
        size_text(row["weights_bytes"]),
        f"{row['ms']:.2f}",
        f"{row['low_ms']:.2f}",
        f"{row['times_f32']:.2f}",
        f"{row['times_int8']:.2f}",
        f"{row[COSINE]:.4f}",
        "" if spearman is None else f"{spearman:.4f}",
    )
