"""Writes one HTML page that shows a compile: passes, graphs, differences, weights, kernels, memory. It opens from disk
and needs no network. `nomul view DUMP -o page.html`, where DUMP is the folder of `nomul compile --dump`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nomul.arguments import add_dim_sizes
from nomul.console import say, size_text

HELP = "write an HTML page that shows a dump, an artifact or a .nir file"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="the folder of a dump, an artifact, or a .nir file")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE.html")
    parser.add_argument("--bench", type=Path, metavar="FILE.json", help="what `nomul bench --json --steps` printed")
    add_dim_sizes(parser)


def run(arguments: argparse.Namespace) -> int:
    from nomul.sample import module_fits, pick_dims
    from nomul.view.page import render_page
    from nomul.view.sources import read_view_source
    from nomul.view.tables import page_data
    from nomul.view.times import read_times

    source = read_view_source(arguments.source)
    bench = read_times(arguments.bench, source.facts) if arguments.bench else None
    first = next(stage.module for stage in source.stages if stage.module is not None)
    given = dict(arguments.dim) or {n: s for n, s in (bench or {}).get("dims", {}).items() if n in first.dims}
    page = render_page(page_data(source, pick_dims(first.dims, given, module_fits(first)), bench))
    arguments.output.write_text(page, encoding="utf-8")
    say(f"{arguments.output}: {size_text(len(page.encode()))}")
    return 0
