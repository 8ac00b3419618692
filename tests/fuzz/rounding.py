"""How far two correct computations of a drawn graph may differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.ir.graph import Module
from nomul.ir.interpreter import run
from nomul.ir.types import DType


def tolerances(module: Module, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What rounding may change: a share of the largest result, and a multiple of what tiny changes of the inputs do."""
    random = np.random.default_rng(0)
    values = [value for func in module.funcs.values() for value in func.values()]
    share = 1e-2 if any(value.dtype in (DType.F16, DType.BF16) for value in values) else 1e-4
    limits = [1e-5 + share * np.abs(value).max(initial=0) * np.ones(value.shape) for value in expected]
    for _ in range(3):
        noise = [1 + 1e-6 * random.uniform(-1, 1, x.shape) for x in inputs]
        near = [(x * n).astype(x.dtype) if x.dtype.kind == "f" else x for x, n in zip(inputs, noise, strict=True)]
        for limit, value, moved in zip(limits, expected, run(module, *near), strict=True):
            if value.dtype.kind == "f":
                limit += 20 * np.abs(moved - value)
    return limits
