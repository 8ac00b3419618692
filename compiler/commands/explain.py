"""Explains an error code: what it means, why it happens, what to do."""

from __future__ import annotations

import argparse

from nomul.console import say

HELP = "explain an error code such as NM101"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", help="the code in brackets behind 'error'")


def run(arguments: argparse.Namespace) -> int:
    from nomul.explain import explain

    explanation = explain(arguments.code)
    say(f"{explanation.code}: {explanation.title}\n\n{explanation.text}")
    return 0
