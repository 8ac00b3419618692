"""Says why rules did not fire: the closest failed matches, closest first. `nomul why model.onnx --rule layer_norm`.

A model goes through all phases first. A .nir file of a dump is looked at as it stands, and so is one value with --at:
`nomul why dump/12.simplify.nir --rule layer_norm --at %norm`.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from nomul.arguments import add_dim_ranges, positive
from nomul.console import say
from nomul.ir.errors import NomulError

if TYPE_CHECKING:
    from nomul.ir.graph import Module
    from nomul.passes.base import Miss

HELP = "say why rules did not fire on a model"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .nir, .onnx or .pt2 file")
    parser.add_argument("--rule", metavar="R", help="only this rule (nomul list rules)")
    parser.add_argument("--at", metavar="%VALUE", help="what the rules say of this value, as it stands in the file")
    parser.add_argument("--limit", type=positive, default=20, help="lines to print (default 20)")
    add_dim_ranges(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.source import read_model

    module = read_model(arguments.model, dims=dict(arguments.dim))
    stands = arguments.at is not None or bool(module.after) or module.level == "exec"
    lines = _as_it_stands(module, arguments) if stands else _through_phases(module, arguments.rule)
    for line in lines[: arguments.limit]:
        say(line)
    if len(lines) > arguments.limit:
        say(f"and {len(lines) - arguments.limit} more (--limit)")
    if not lines:
        say("no rule came close without firing; --at %VALUE asks for one value of a .nir file (--dump writes them)")
    return 0


def _through_phases(module: Module, rule: str | None) -> list[str]:
    from nomul.passes.runner import PassRunner
    from nomul.phases import phases

    runner = PassRunner()
    runner.run(module, phases())
    return _told([miss for miss in runner.misses if rule in (None, miss.rule)], rule)


def _as_it_stands(module: Module, arguments: argparse.Namespace) -> list[str]:
    from nomul.passes.rule import all_rules
    from nomul.passes.why import why_not

    at = None if arguments.at is None else arguments.at.removeprefix("%").strip('"')
    known = {value.name for func in module.funcs.values() for node in func.nodes for value in node.results}
    if at is not None and at not in known:
        near = (
            ", ".join(f"%{name}" for name in difflib.get_close_matches(at, known, 3)) or "nomul show FILE.nir --graph"
        )
        raise NomulError("NM018", f"no node of the module gives %{at}", help=f"near: {near}")
    rules = [kind() for name, kind in all_rules().items() if arguments.rule in (None, name)]
    answer = why_not(module, rules, at)
    fires = [f"{rule} would fire at {value}" for rule, value in answer.fires]
    return [*fires, *_told(answer.misses, arguments.rule)]


def _told(misses: list[Miss], rule: str | None) -> list[str]:
    """Lines for the misses. Raises NomulError (NM014) for a rule that does not exist."""
    from nomul.passes.rule import all_rules

    known = {*all_rules(), *(miss.rule for miss in misses)}
    if rule is not None and rule not in known:
        near = ", ".join(difflib.get_close_matches(rule, known, 3)) or "nomul list rules"
        raise NomulError("NM014", f"there is no rule '{rule}'", help=f"see: {near}")
    return [str(miss) for miss in misses]
