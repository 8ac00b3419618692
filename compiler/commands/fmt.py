"""Puts .nir files into the printer's form, comments kept: `nomul fmt model.nir`; with --check it only looks."""

from __future__ import annotations

import argparse
from pathlib import Path

from nomul.console import say

HELP = "put .nir files into their standard form"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.nir")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where a file would change")


def run(arguments: argparse.Namespace) -> int:
    from nomul.ir.format import format_text
    from nomul.nir import read_text

    changed = []
    for path in arguments.files:
        text = read_text(path)
        formatted = format_text(text)
        if formatted == text:
            continue
        changed.append(path)
        if not arguments.check:
            path.write_text(formatted, encoding="utf-8")
        say(f"{'would change' if arguments.check else 'changed'} {path}")
    return 1 if changed and arguments.check else 0
