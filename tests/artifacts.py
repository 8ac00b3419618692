"""Compiles a module and runs it on every instruction-set level of this machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import nomul
from nomul.ir.graph import Module
from nomul.runtime.errors import RuntimeFault


def results_by_level(module: Module, inputs: Sequence[np.ndarray]) -> dict[str, tuple[np.ndarray, ...]]:
    """Results of the compiled module for each level that this CPU has."""
    results = {}
    with nomul.compile(module) as artifact:
        for level in artifact.levels:
            try:
                artifact.force_level(level)
            except RuntimeFault as fault:
                if fault.code != "NM606":
                    raise
                continue
            results[level] = artifact(*inputs)
    assert results, "this CPU has none of the levels"
    return results
