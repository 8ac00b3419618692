"""Random graphs through all passes, the interpreter's results compared after each."""

from __future__ import annotations

import pytest
from fuzz.effort import AS_DRAWN
from fuzz.graphs import Drawn, modules
from fuzz.rounding import Expected
from hypothesis import given, settings

import nomul
from nomul.ir.interpreter import run

FEW = settings(AS_DRAWN, max_examples=40)


def compare(drawn: Drawn) -> None:
    """The runner's own check draws other inputs; here the drawn ones are compared, too."""
    expected = Expected(drawn)
    lowered = nomul.lower(drawn.module, check=True)
    expected.compare(run(lowered, *drawn.inputs), "after all passes")


@FEW
@given(modules(smooth=True))
def test_passes_keep_results(drawn: Drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(FEW, max_examples=500)
@given(modules(smooth=True))
def test_passes_keep_results_of_many(drawn: Drawn) -> None:
    compare(drawn)
