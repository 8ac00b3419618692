"""Times an artifact on random inputs: median, 90th percentile, bytes per second, and (--steps) every step."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nomul.arguments import add_dim_sizes, add_run_options
from nomul.console import say, table

HELP = "time an artifact"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure (default 2)")
    parser.add_argument("--steps", action="store_true", help="show the time of every step")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--huge-pages", action="store_true", help="copy the weights into huge pages first (Linux)")
    add_dim_sizes(parser)
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.runtime.loader import load
    from nomul.sample import artifact_fits, artifact_specs, pick_dims, sample_inputs
    from nomul.timing import measure

    artifact = load(arguments.artifact, huge_pages=arguments.huge_pages)
    artifact.force_level(arguments.level)
    dims = pick_dims(artifact.dims, dict(arguments.dim), artifact_fits(artifact))
    values = sample_inputs(artifact_specs(artifact), dims)
    latency = measure({"run": lambda: artifact(*values, threads=arguments.threads)}, arguments.seconds)["run"]
    moved = artifact.facts["weights"]["bytes"] + sum(array.nbytes for array in values)
    facts: dict[str, Any] = {
        "model": artifact.name,
        "target": artifact.target,
        "level": artifact.level,
        "threads": arguments.threads,
        "dims": dims,
        **{f"{name}_ms" if name != "runs" else name: value for name, value in asdict(latency).items()},
        "weights_and_inputs_gbs": moved / latency.p50 / 1e6,
    }
    if arguments.steps:
        steps = artifact.profile(*values, threads=arguments.threads)
        facts["steps"] = [{"step": comment, "ms": seconds * 1e3} for comment, seconds in steps]
    say(json.dumps(facts, indent=1)) if arguments.json else _print(facts)
    return 0


def _print(facts: dict[str, Any]) -> None:
    sizes = " ".join(f"{name}={size}" for name, size in facts["dims"].items()) or "fixed sizes"
    say(f"{facts['model']} for {facts['target']}, level {facts['level']}, {sizes}, threads {facts['threads']}")
    times = "   ".join(f"{name} {facts[f'{name}_ms']:.3f} ms" for name in ("p50", "p90", "low"))
    say(f"{times}   {facts['runs']} runs")
    say(f"{facts['weights_and_inputs_gbs']:.2f} GB/s of weights and inputs")
    steps = facts.get("steps", [])
    total = sum(step["ms"] for step in steps) or 1.0
    rows = [(f"{s['ms']:.3f}", f"{s['ms'] / total:.1%}", s["step"]) for s in sorted(steps, key=lambda s: -s["ms"])]
    if rows:
        table("", ("ms", "share", "step"), rows)
