"""Says why rules did not fire: the closest failed matches, closest first. `nomul why model.onnx --rule layer_norm`."""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path

from nomul.arguments import add_dim_ranges, positive
from nomul.console import say
from nomul.ir.errors import NomulError

HELP = "say why rules did not fire on a model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .nir, .onnx or .pt2 file")
    parser.add_argument("--rule", metavar="R", help="only this rule (nomul list rules)")
    parser.add_argument("--limit", type=positive, default=20, help="lines to print (default 20)")
    add_dim_ranges(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.passes.runner import PassRunner
    from nomul.phases import phases
    from nomul.source import read_model

    _check_rule(arguments.rule)
    runner = PassRunner()
    runner.run(read_model(arguments.model, dims=dict(arguments.dim)), phases())
    misses = [miss for miss in runner.misses if arguments.rule in (None, miss.rule)]
    for miss in misses[: arguments.limit]:
        say(str(miss))
    if len(misses) > arguments.limit:
        say(f"and {len(misses) - arguments.limit} more (--limit)")
    if not misses:
        say("no rule came close without firing")
    return 0


def _check_rule(name: str | None) -> None:
    from nomul.passes.rule import all_rules

    known = all_rules()
    if name is not None and name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "nomul list rules"
        raise NomulError("NM014", f"there is no rule '{name}'", help=f"see: {near}")
