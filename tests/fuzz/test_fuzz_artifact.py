"""Random graphs, compiled: the artifact against the interpreter on every instruction-set level of this machine."""

from __future__ import annotations

import numpy as np
import pytest
from artifacts import results_by_level
from fuzz.effort import AS_DRAWN
from fuzz.graphs import Drawn, modules
from fuzz.rounding import tolerances
from hypothesis import given, settings

from nomul.ir.interpreter import run
from nomul.ir.text import print_module

FEW = settings(AS_DRAWN, max_examples=12)


def compare(drawn: Drawn) -> None:
    expected = run(drawn.module, *drawn.inputs)
    limits = tolerances(drawn.module, drawn.inputs, expected)
    for level, results in results_by_level(drawn.module, drawn.inputs).items():
        for number, (result, value, limit) in enumerate(zip(results, expected, limits, strict=True)):
            what = f"output {number} on {level} with {drawn.dims} of\n{print_module(drawn.module)}"
            assert result.dtype == value.dtype and result.shape == value.shape, what
            if value.dtype.kind == "f":
                assert np.all(np.abs(result - value) <= limit), what
            else:
                np.testing.assert_array_equal(result, value, what)


@FEW
@given(modules(smooth=True))
def test_artifact_computes_what_the_interpreter_does(drawn: Drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(FEW, max_examples=200)
@given(modules(smooth=True))
def test_many_artifacts(drawn: Drawn) -> None:
    compare(drawn)
