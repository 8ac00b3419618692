"""Compares compiled models with onnxruntime's fp32: `python benchmarks/models.py --json results.json`.

One row for each model, size and number of threads: latency (medians of interleaved runs, and fastest runs), difference
of the results, sizes and compile time; the machine's limits before and after. Models whose package is absent are named.
`--recipes int8,w4` measures models with such weights instead (`model_recipes.py`).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import nomul
from nomul.compare import difference, onnxruntime_of
from nomul.sample import artifact_specs, pick_dims, sample_inputs
from nomul.timing import measure

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]
import limits  # stands beside this file, as model_recipes and results do
import model_recipes
import real_models  # stands in examples/
import results

LENGTHS = (16, 128, 512)
Row = dict[str, Any]


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


def _lightglue() -> Subject:
    import torch

    class Matcher(torch.nn.Module):
        """Scores of all pairs of points, without the early exit, which decides by data."""

        def __init__(self) -> None:
            super().__init__()
            library = real_models.lightglue()
            self.net = library.LightGlue("disk", depth_confidence=-1, width_confidence=-1, flash=False)

        def forward(self, p0: torch.Tensor, d0: torch.Tensor, p1: torch.Tensor, d1: torch.Tensor) -> torch.Tensor:
            x0, x1 = self.net.input_proj(d0), self.net.input_proj(d1)
            place0, place1 = self.net.posenc(p0), self.net.posenc(p1)
            for layer in self.net.transformers:
                x0, x1 = layer(x0, x1, place0, place1)
            scores: torch.Tensor = self.net.log_assignment[-1](x0, x1)[0]
            return scores

    example = (torch.randn(1, 20, 2), torch.randn(1, 20, 128), torch.randn(1, 30, 2), torch.randn(1, 30, 128))
    axes = {"p0": {1: "M"}, "d0": {1: "M"}, "p1": {1: "N"}, "d1": {1: "N"}}
    return from_torch(Matcher().eval(), example, axes)


def _minilm_l6() -> Subject:
    import torch

    class LastHidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = real_models.minilm_l6()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    example = (torch.randint(1, 999, (2, 7)), torch.ones(2, 7, dtype=torch.long))
    axes = {0: "B", 1: "S"}
    return from_torch(LastHidden().eval(), example, {"input_ids": axes, "attention_mask": axes})


def _llama() -> Subject:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.llama = LlamaForCausalLM(LlamaConfig(**_SMALL_LLAMA, attn_implementation="sdpa"))

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            mask = torch.ones_like(input_ids)  # without one, transformers looks for packed sequences
            found = self.llama(input_ids=input_ids, attention_mask=mask, use_cache=False)
            logits: torch.Tensor = found.logits
            return logits

    return from_torch(Logits().eval(), (torch.randint(1, 999, (2, 7)),), {"input_ids": {0: "B", 1: "S"}})


_SMALL_LLAMA = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def from_torch(model: Any, example: tuple[Any, ...], axes: dict[str, dict[int, str]]) -> Subject:
    """A torch model; onnxruntime gets what torch's own exporter makes of it. axes: names of open axes by input."""
    import torch

    def export(folder: Path) -> Path:
        path = folder / "model.onnx"
        with warnings.catch_warnings(), mock.patch.multiple(torch.Tensor, **_EXPORTABLE):
            warnings.simplefilter("ignore")  # of the exporter, which needs no package beside onnx
            torch.onnx.export(
                model, example, str(path), input_names=list(axes), dynamic_axes=axes, dynamo=False, opset_version=17
            )
        return path

    return Subject(model, export, {"example_inputs": example, "dynamic_shapes": axes})


def _unflatten(x: Any, dim: int, sizes: tuple[int, ...]) -> Any:
    assert dim == -1
    known = -int(np.prod(sizes))
    return x.reshape(*x.shape[:-1], *(x.shape[-1] // known if size == -1 else size for size in sizes))


def _repeat_interleave(x: Any, repeats: int, dim: int) -> Any:
    assert dim == -1
    return x.unsqueeze(-1).expand(*x.shape, repeats).reshape(*x.shape[:-1], x.shape[-1] * repeats)


# Methods of tensors on the last axis, in a form of which the exporter knows the rank.
_EXPORTABLE: dict[str, Any] = {"unflatten": _unflatten, "repeat_interleave": _repeat_interleave}


def entries() -> Iterator[Entry]:
    text = {"batch_size": (1, 8), "sequence_length": (1, 512)}
    lengths = tuple({"batch_size": 1, "sequence_length": length} for length in LENGTHS)
    yield Entry("paraphrase-MiniLM-L3", lambda: _onnx_file(real_models.minilm_l3()), text, lengths)
    lengths = tuple({"B": 1, "S": length} for length in LENGTHS)
    yield Entry("all-MiniLM-L6", _minilm_l6, {"B": (1, 8), "S": (1, 512)}, lengths)
    points = tuple({"M": count, "N": count} for count in (128, 512))
    yield Entry("LightGlue", _lightglue, {"M": (1, 1024), "N": (1, 1024)}, points)
    for name, dims, cases in _OCR:
        yield Entry(name, lambda name=name: _onnx_file(real_models.ocr_model(name)), dims, cases)  # type: ignore[misc]


def recipe_entries() -> Iterator[Entry]:
    """Models for `--recipes`: both encoders, a Llama of 28 million random weights, and those of convolutions."""
    yield from (entry for entry in entries() if "MiniLM" in entry.name)
    lengths = tuple({"B": 1, "S": length} for length in (1, *LENGTHS))
    yield Entry("Llama, 8 x 512", _llama, {"B": (1, 8), "S": (1, 512)}, lengths)
    yield from (entry for entry in entries() if "ocr" in entry.name.lower())


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


def run_entry(entry: Entry, threads: Sequence[int], seconds: float) -> Iterator[Row]:
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


def measure_all(
    chosen: Iterable[Entry], run: Callable[[Entry], Iterator[Row]], line: Callable[[Row], str], threads: Sequence[int]
) -> dict[str, Any]:
    """The rows of all models, the limits before and after, and what was skipped."""
    before = [asdict(limits.measure(count)) for count in threads]
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    for entry in chosen:
        try:
            for row in run(entry):
                rows.append(row)
                print(line(row), file=sys.stderr, flush=True)
        except (real_models.PackageMissing, ModuleNotFoundError) as error:
            skipped[entry.name] = str(error)
    return {
        "machine": platform.processor() or platform.machine(),
        "limits_before": before,
        "limits_after": [asdict(limits.measure(count)) for count in threads],
        "skipped": skipped,
        "rows": rows,
    }


def arguments_of(command: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and limits there")
    parser.add_argument("--model", action="append", default=[], help="only models whose name contains this")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=2.0, help="per row (default 2; of each system with recipes)")
    parser.add_argument("--docs", action="store_true", help="put the results into docs/benchmarks.md")
    usual = ",".join(model_recipes.RECIPES)
    parser.add_argument("--recipes", nargs="?", const=usual, metavar="NAMES", help=f"by commas (default {usual})")
    parser.add_argument("--encoded", type=Path, metavar="FOLDER", help="keep models with encoded weights there")
    return parser.parse_args(command)


def main(command: Sequence[str] | None = None) -> int:
    arguments = arguments_of(command)
    shown = model_recipes if arguments.recipes else results
    known = recipe_entries() if arguments.recipes else entries()
    chosen = [entry for entry in known if not arguments.model or any(part in entry.name for part in arguments.model)]
    with tempfile.TemporaryDirectory() as folder:
        keep = arguments.encoded or Path(folder)
        recipes = arguments.recipes.split(",") if arguments.recipes else []

        def run(entry: Entry) -> Iterator[Row]:
            if recipes:
                return model_recipes.run_entry(entry, recipes, arguments.threads, arguments.seconds, keep)
            return run_entry(entry, arguments.threads, arguments.seconds)

        result = measure_all(chosen, run, shown.line, arguments.threads)
    shown.print_results(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.docs:
        shown.update_docs(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
