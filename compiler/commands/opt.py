"""Applies passes to a model: `nomul opt x.nir -p fold_constants,fuse{only=layer_norm} --diff` prints what changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from nomul.arguments import add_dim_ranges
from nomul.console import say

HELP = "apply passes to a model and print the IR"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, help="a .nir, .onnx or .pt2 file")
    parser.add_argument(
        "-p", "--passes", default="", metavar="A,B{x=1}", help="passes in order, with options (nomul list passes)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.nir", help="write there, weights beside it")
    parser.add_argument("--check", action="store_true", help="compare with the interpreter after every pass")
    parser.add_argument("--dump", type=Path, metavar="DIR", help="write the IR after every pass there")
    parser.add_argument("--diff", action="store_true", help="print what changed instead of the IR")
    parser.add_argument("--table", action="store_true", help="print what each pass did instead of the IR")
    add_dim_ranges(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.ir.text import print_module
    from nomul.nir import write_nir
    from nomul.passes.catalog import make_passes
    from nomul.passes.dump import Dump, text_diff
    from nomul.passes.runner import PassRunner, index_table
    from nomul.source import read_model

    passes = make_passes(arguments.passes)
    module = read_model(arguments.model, dims=dict(arguments.dim))
    runner = PassRunner(Dump(arguments.dump) if arguments.dump else None, arguments.check)
    before, module = module, runner.apply_all(module, passes)
    if arguments.output:
        write_nir(module, arguments.output)
    if arguments.table:
        say(index_table(runner.records).rstrip())
    if arguments.diff:
        say(text_diff(print_module(before), print_module(module), arguments.passes).rstrip())
    elif not arguments.table and not arguments.output:
        say(print_module(module).rstrip())
    return 0
