"""Random graphs as portable C: the sources, compiled for this machine, against the interpreter."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from fuzz.effort import AS_DRAWN
from fuzz.graphs import Drawn, modules
from fuzz.rounding import Expected
from hypothesis import given, settings
from portable_c_harness import build_library, run_library

import nomul

FEW = settings(AS_DRAWN, max_examples=8)


def compare(drawn: Drawn) -> None:
    expected = Expected(drawn)
    results = [np.zeros(value.shape, value.dtype) for value in expected.values]
    with TemporaryDirectory(prefix="nomul-test-") as name:
        folder = nomul.build(drawn.module, output=Path(name) / "model", emit="c")
        library = build_library(folder, "-O1", "-fsanitize=undefined", "-fsanitize-trap=undefined")
        run_library(library, drawn.inputs, results)
    expected.compare(results, "of portable C")


@FEW
@given(modules(smooth=True))
def test_sources_compute_what_the_interpreter_does(drawn: Drawn) -> None:
    compare(drawn)


@pytest.mark.slow
@settings(FEW, max_examples=100)
@given(modules(smooth=True))
def test_many_sources(drawn: Drawn) -> None:
    compare(drawn)
