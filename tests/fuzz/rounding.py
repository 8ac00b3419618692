"""How far two correct computations of a drawn graph may differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fuzz.graphs import Drawn

from nomul.ir.interpreter import run
from nomul.ir.text import print_module
from nomul.ir.types import DType


class Expected:
    """The interpreter's results for a drawn graph, and how far others may be from them."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn = drawn
        self.values = run(drawn.module, *drawn.inputs)
        self._text = print_module(drawn.module)
        self._limits = self._tolerances()

    def compare(self, results: Sequence[np.ndarray], where: str) -> None:
        """Raises AssertionError with the graph where results are not those expected. where: they were computed."""
        for number, (result, value, limit) in enumerate(zip(results, self.values, self._limits, strict=True)):
            what = f"output {number} {where} with {self.drawn.dims} of\n{self._text}"
            assert result.dtype == value.dtype and result.shape == value.shape, what
            if value.dtype.kind == "f":
                assert np.all(np.abs(result - value) <= limit), what
            else:
                np.testing.assert_array_equal(result, value, what)

    def _tolerances(self) -> list[np.ndarray]:
        """What rounding may change: a share of the largest result, and a multiple of what tiny input changes do."""
        module, inputs = self.drawn.module, self.drawn.inputs
        random = np.random.default_rng(0)
        values = [value for func in module.funcs.values() for value in func.values()]
        share = 1e-2 if any(value.dtype in (DType.F16, DType.BF16) for value in values) else 1e-4
        limits = [1e-5 + share * np.abs(value).max(initial=0) * np.ones(value.shape) for value in self.values]
        for _ in range(3):
            noise = [1 + 1e-6 * random.uniform(-1, 1, x.shape) for x in inputs]
            near = [(x * n).astype(x.dtype) if x.dtype.kind == "f" else x for x, n in zip(inputs, noise, strict=True)]
            for limit, value, moved in zip(limits, self.values, run(module, *near), strict=True):
                if value.dtype.kind == "f":
                    limit += 20 * np.abs(moved - value)
        return limits
