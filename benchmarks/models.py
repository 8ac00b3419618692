"""Compares compiled models with onnxruntime's fp32: `python benchmarks/models.py --json results.json`.

One row for each model, size and number of threads: latency (medians of interleaved runs, and fastest runs), difference
of the results, sizes and compile time; the machine's limits before and after. Models whose package is absent are named.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import nomul
from nomul.compare import difference, onnxruntime_of
from nomul.sample import artifact_specs, pick_dims, sample_inputs
from nomul.timing import measure

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]
import limits  # stands beside this file, as results does
import real_models  # stands in examples/
import results

LENGTHS = (16, 128, 512)


@dataclass(frozen=True)
class Subject:
    """What to compile and what onnxruntime gets. onnx: called with a folder to export into, where there is no file."""

    model: Any
    onnx: Callable[[Path], Path]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """load: gives the subject or raises PackageMissing.  dims: ranges to compile for.  cases: sizes to measure."""

    name: str
    load: Callable[[], Subject]
    dims: dict[str, tuple[int, int]]
    cases: tuple[dict[str, int], ...]


def _onnx_file(path: Path) -> Subject:
    return Subject(path, lambda folder: path)


def _minilm_l6() -> Subject:
    import torch

    class LastHidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = real_models.minilm_l6()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    model = LastHidden().eval()
    example = (torch.randint(1, 999, (2, 7)), torch.ones(2, 7, dtype=torch.long))
    names = ["input_ids", "attention_mask"]
    axes = {0: "B", 1: "S"}

    def export(folder: Path) -> Path:
        path = folder / "minilm_l6.onnx"
        dynamic = dict.fromkeys(names, axes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, which needs no package beside onnx
            torch.onnx.export(
                model, example, str(path), input_names=names, dynamic_axes=dynamic, dynamo=False, opset_version=17
            )
        return path

    return Subject(model, export, {"example_inputs": example, "dynamic_shapes": dict.fromkeys(names, axes)})


def _entries() -> Iterator[Entry]:
    text = {"batch_size": (1, 8), "sequence_length": (1, 512)}
    lengths = tuple({"batch_size": 1, "sequence_length": length} for length in LENGTHS)
    yield Entry("paraphrase-MiniLM-L3", lambda: _onnx_file(real_models.minilm_l3()), text, lengths)
    lengths = tuple({"B": 1, "S": length} for length in LENGTHS)
    yield Entry("all-MiniLM-L6", _minilm_l6, {"B": (1, 8), "S": (1, 512)}, lengths)
    for name, dims, cases in _OCR:
        yield Entry(name, lambda name=name: _onnx_file(real_models.ocr_model(name)), dims, cases)  # type: ignore[misc]


_OCR: tuple[tuple[str, dict[str, tuple[int, int]], tuple[dict[str, int], ...]], ...] = (
    (
        "PP-OCRv6_rec_small",
        {"x_0": (1, 8), "x_3": (32, 2048)},
        tuple({"x_0": 1, "x_3": width} for width in (160, 320, 640)),
    ),
    (
        "PP-OCRv6_det_small",  # height and width are multiples of 32
        {"x_0": (1, 1), "x_2": (32, 1536), "x_3": (32, 1536)},
        tuple({"x_2_div32": side // 32, "x_3_div32": side // 32} for side in (320, 640)),
    ),
    (
        "ch_ppocr_mobile_v2.0_cls_mobile",
        {"x_0": (1, 8), "x_2": (48, 48), "x_3": (32, 512)},
        ({"x_0": 1, "x_3": 192},),
    ),
)


def run_entry(entry: Entry, threads: Sequence[int], seconds: float) -> Iterator[dict[str, Any]]:
    """The rows of one model."""
    subject = entry.load()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        options = dict(subject.options)
        artifact = nomul.compile(
            subject.model, options.pop("example_inputs", None), dims=entry.dims, output=folder / "model.so", **options
        )
        compile_s = time.perf_counter() - start
        onnx = subject.onnx(folder)
        for count in threads:
            for case in entry.cases:
                row = _measure_case(artifact, onnx, case, count, seconds)
                yield {"model": entry.name, "dims": case, "threads": count, **row, "compile_s": round(compile_s, 2)}


def _measure_case(
    artifact: nomul.Artifact, onnx: Path, case: dict[str, int], threads: int, seconds: float
) -> dict[str, Any]:
    reference = onnxruntime_of(onnx, threads)
    assert reference is not None
    values = sample_inputs(artifact_specs(artifact), pick_dims(artifact.dims, case))
    expected, given = reference(values), artifact(*values, threads=threads)
    apart = [difference(np.asarray(left), right) for left, right in zip(expected, given, strict=True)]
    times = measure(
        {"nomul": lambda: artifact(*values, threads=threads), "onnxruntime": lambda: reference(values)}, seconds
    )
    ours, theirs = times["nomul"].p50, times["onnxruntime"].p50
    return {
        "nomul_ms": round(ours, 4),
        "onnxruntime_ms": round(theirs, 4),
        "ratio": round(ours / theirs, 3),
        "nomul_low_ms": round(times["nomul"].low, 4),
        "onnxruntime_low_ms": round(times["onnxruntime"].low, 4),
        "max_abs_diff": max(item.absolute for item in apart),
        "max_rel_diff": max(item.relative for item in apart),
        "library_bytes": artifact.path.stat().st_size,
        "weights_bytes": artifact.facts["weights"]["bytes"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and limits there")
    parser.add_argument("--model", action="append", default=[], help="only models whose name contains this")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="per row (default 2)")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/benchmarks.md")
    arguments = parser.parse_args()
    before = [asdict(limits.measure(count)) for count in arguments.threads]
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for entry in _entries():
        if arguments.model and not any(part in entry.name for part in arguments.model):
            continue
        try:
            for row in run_entry(entry, arguments.threads, arguments.seconds):
                rows.append(row)
                print(results.line(row), file=sys.stderr)
        except (real_models.PackageMissing, ImportError) as error:
            skipped[entry.name] = str(error)
    after = [asdict(limits.measure(count)) for count in arguments.threads]
    result = {
        "machine": platform.processor() or platform.machine(),
        "limits_before": before,
        "limits_after": after,
        "skipped": skipped,
        "rows": rows,
    }
    results.print_results(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.docs:
        results.update_docs(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
