"""Compiles a model: `nomul compile model.onnx -o model.so --dim batch=1:8 --dim sequence=1:512`.

With --emit c the result is a folder of portable C sources (`docs/embedded.md`).

With --until the IR after that phase is written instead (text to -o FILE.nir with its weights beside it, or printed).
A .nir file of that or of a --dump goes on behind the pass that it is after (`docs/looking-inside.md`).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from math import inf
from pathlib import Path
from typing import Any

from nomul.arguments import add_dim_ranges
from nomul.console import progress_bar, say, say_exchanged, size_text, table
from nomul.ir.errors import NomulError
from nomul.options import ARRAY_LIMIT, tune_file
from nomul.runtime.trailer import read_facts

NOTES = 8  # that are shown
HELP = "compile an ONNX or PyTorch model to a shared library, or to portable C"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .onnx, .pt2 or .nir file")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="model.so, or a folder for bundle or sources")
    parser.add_argument("--target", action="append", default=[], metavar="T", help="default host; nomul list targets")
    parser.add_argument("--recipe", metavar="R", help="a recipe (nomul list recipes, or .toml), or an encoding")
    parser.add_argument("--calib", type=Path, metavar="DATA", help="calibration data: a .npz, or a folder of .npy")
    parser.add_argument("--weights", choices=("auto", "embedded", "external"), default="auto", help="where weights go")
    parser.add_argument("--emit", choices=("library", "c"), default="library", help="a library, or portable C sources")
    parser.add_argument(
        "--array-limit", type=int, default=ARRAY_LIMIT, metavar="BYTES", help="--emit c: larger weights are no C array"
    )
    parser.add_argument("--name", help="of the model in the artifact (default: the file's name)")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="write the IR between passes, kernels and C there")
    parser.add_argument("--until", metavar="PHASE", help="stop after this phase and write the IR")
    parser.add_argument("--check", action="store_true", help="compare with the interpreter after every pass (slow)")
    parser.add_argument(
        "--tune",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="measure kernels where several serve; keep the times in FILE (default OUT.tune.json)",
    )
    parser.add_argument("--strict", action="store_true", help="fail on generic kernels and encodings that do not fit")
    parser.add_argument(
        "--report", action="append", default=[], metavar="FILE", help="write what encodings lose: .html or .json"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    add_dim_ranges(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.until:
        return _write_ir(arguments)
    if arguments.output is None:
        raise NomulError("NM013", "nowhere to write the library", help="add -o model.so")
    return _compile(arguments)


def _compile(arguments: argparse.Namespace) -> int:
    from nomul.api import build

    start = time.perf_counter()
    with progress_bar(arguments.quiet) as progress:
        path = build(
            arguments.model,
            output=arguments.output,
            target=tuple(arguments.target) or "host",
            weights=arguments.weights,
            strict=arguments.strict,
            tune=arguments.tune,
            emit=arguments.emit,
            array_limit=arguments.array_limit,
            report=arguments.report,
            name=arguments.name,
            **_common(arguments, progress),
        )
    seconds = time.perf_counter() - start
    if arguments.quiet:
        return 0
    if arguments.emit == "c":
        _summarise_sources(path, json.loads((path / "model.json").read_text()), seconds)
    else:
        tuned = tune_file(arguments.output, arguments.tune)
        _summarise(path, read_facts(path, verify=False), seconds, tuned)
    return 0


def _common(arguments: argparse.Namespace, progress: Any) -> dict[str, Any]:
    return {
        "recipe": arguments.recipe,
        "calib": arguments.calib,
        "dims": dict(arguments.dim),
        "dump": arguments.dump,
        "check": arguments.check,
        "progress": progress,
    }


def _write_ir(arguments: argparse.Namespace) -> int:
    from nomul.api import lower
    from nomul.ir.text import print_module
    from nomul.nir import write_nir

    with progress_bar(arguments.quiet or sys.stdout.isatty()) as progress:
        module = lower(arguments.model, until=arguments.until, **_common(arguments, progress))
    if arguments.output is None:
        say(print_module(module).rstrip())
    else:
        write_nir(module, arguments.output)
    return 0


def _say_notes(facts: dict[str, Any]) -> None:
    """Layers that did not get what the recipe says, and what else it is good to know."""
    notes = facts.get("notes", [])
    if notes:
        say(f"{len(notes)} notes:")
        for note in notes[:NOTES]:
            say(f"  {note}")
        if len(notes) > NOTES:
            say(f"  and {len(notes) - NOTES} more (--report FILE.html, --dump DIR or --strict name all)")


def _summarise_sources(path: Path, facts: dict[str, Any], seconds: float) -> None:
    weights = f"{size_text(facts['weights_bytes'])} weights in {facts['weights_file']}"
    kernels = size_text((path / "kernels.c").stat().st_size)
    say(f"wrote {path}: {kernels} source of kernels, {weights}, {seconds:.1f} s")
    scratch = facts["scratch_bytes"]
    say(f"target {facts['target']}, scratch {'without bound' if scratch is None else f'{scratch} bytes'} on one thread")
    say_exchanged(facts)
    _say_notes(facts)


def _summarise(path: Path, facts: dict[str, Any], seconds: float, tuned: Path | None) -> None:
    weights = facts["weights"]["bytes"]
    size = path.stat().st_size
    code = size if facts["weights"]["external"] else size - weights
    say(f"wrote {path}: {size_text(size)} ({size_text(code)} code, {size_text(weights)} weights), {seconds:.1f} s")
    say(f"target {facts['target']}, levels {', '.join(facts['levels'])}, {len(facts['runs'])} kernel runs")
    say(f"memory of a run, one thread: {_scratch(facts)}")
    if tuned is not None and tuned.exists():
        say(f"times of kernels: {tuned} (nomul show {path} --kernels says what they decided)")
    say_exchanged(facts)
    _say_notes(facts)
    slow = [kernel for kernel in facts["kernels"] if kernel["generic"]]
    if slow:
        runs = sum(kernel["uses"] for kernel in slow)
        say(f"{runs} runs use a generic kernel (nomul show {path} --kernels says why)")
        rows = [(kernel["uses"], " + ".join(kernel["ops"])) for kernel in sorted(slow, key=lambda k: -k["uses"])[:10]]
        table("", ("runs", "ops"), rows)


def _scratch(facts: dict[str, Any]) -> str:
    """The scratch of a run at usual sizes and, where all dims have an end, at the largest."""
    from nomul.memory import scratch_bytes
    from nomul.sample import fact_dims, facts_fit, pick_dims

    ranges = fact_dims(facts)
    cases = [pick_dims(ranges, {}, facts_fit(facts))]
    if all(high != inf for _, high in ranges.values()):
        cases.append({name: int(high) for name, (_, high) in ranges.items()})
    texts = []
    for dims in cases:
        sizes = " ".join(f"{name}={size}" for name, size in dims.items())
        texts.append(f"{size_text(scratch_bytes(facts, dims))}{' at ' + sizes if sizes else ''}")
    return ", ".join(dict.fromkeys(texts))
