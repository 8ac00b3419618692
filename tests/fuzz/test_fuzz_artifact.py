"""Random graphs, compiled: the artifact against the interpreter on every instruction-set level of this machine."""

from __future__ import annotations

import pytest
from artifacts import results_by_level
from fuzz.effort import AS_DRAWN
from fuzz.graphs import Drawn, modules
from fuzz.rounding import Expected
from hypothesis import given, settings

FEW = settings(AS_DRAWN, max_examples=12)


def compare(drawn: Drawn) -> None:
    expected = Expected(drawn)
    for level, results in results_by_level(drawn.module, drawn.inputs).items():
        expected.compare(results, f"on {level}")


@FEW
@given(modules(smooth=True))
def test_artifact_computes_what_the_interpreter_does(drawn: Drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(FEW, max_examples=200)
@given(modules(smooth=True))
def test_many_artifacts(drawn: Drawn) -> None:
    compare(drawn)
