"""Finds a small part of a module on which a pass still fails: `nomul reduce 06.simplify.nir -p fuse -o small.nir`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nomul.arguments import add_dim_ranges
from nomul.console import say
from nomul.ir.errors import NomulError

HELP = "find a small part of a module on which a pass fails"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .nir, .onnx or .pt2 file")
    parser.add_argument("-p", "--passes", required=True, metavar="A,B", help="passes in order (nomul list passes)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.nir", help="write there, weights beside it")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to look (default 300)")
    add_dim_ranges(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.ir.text import print_module
    from nomul.nir import require_weights, write_nir
    from nomul.passes.catalog import make_passes
    from nomul.passes.runner import fault_of, smallest_with
    from nomul.source import read_model

    passes = make_passes(arguments.passes)
    module = read_model(arguments.model, dims=dict(arguments.dim))
    require_weights(module)
    fault = fault_of(module, passes)
    if fault is None:
        raise NomulError("NM462", f"{arguments.passes} has no fault on {arguments.model}")
    part = smallest_with(module, passes, fault.code, arguments.seconds)
    count, whole = len(part.main.nodes), len(module.main.nodes)
    if arguments.output:
        write_nir(part, arguments.output)
        say(f"wrote {arguments.output}: {count} of {whole} nodes")
    else:
        say(f"; {count} of {whole} nodes")
        say(print_module(part).rstrip())
    say(f"; error[{fault.code}]: {fault.message}".replace("\n", "\n; "))
    return 0
