"""Random graphs through all passes, the interpreter's results compared after each."""

from __future__ import annotations

import numpy as np
import pytest
from fuzz.effort import AS_DRAWN
from fuzz.graphs import Drawn, modules
from fuzz.rounding import tolerances
from hypothesis import given, settings

import nomul
from nomul.ir.interpreter import run
from nomul.ir.text import print_module

FEW = settings(AS_DRAWN, max_examples=40)


def compare(drawn: Drawn) -> None:
    """The runner's own check draws other inputs; here the drawn ones are compared, too."""
    expected = run(drawn.module, *drawn.inputs)
    lowered = nomul.lower(drawn.module, check=True)
    what = f"with {drawn.dims} of\n{print_module(drawn.module)}"
    limits = tolerances(drawn.module, drawn.inputs, expected)
    for result, value, limit in zip(run(lowered, *drawn.inputs), expected, limits, strict=True):
        assert result.dtype == value.dtype and result.shape == value.shape, what
        assert np.all(np.abs(result.astype(np.float64) - value) <= limit), what


@FEW
@given(modules(smooth=True))
def test_passes_keep_results(drawn: Drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(FEW, max_examples=500)
@given(modules(smooth=True))
def test_passes_keep_results_of_many(drawn: Drawn) -> None:
    compare(drawn)
