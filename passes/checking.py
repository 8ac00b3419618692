"""`--check`: after each pass the interpreter must give the same results on random inputs, up to rounding."""

from __future__ import annotations

import numpy as np

from nomul.ir import interpreter
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.types import DType
from nomul.passes.base import Pass
from nomul.passes.random_inputs import random_dims, random_inputs

TRIALS = 2
_TOLERANCE = {DType.F16: 2e-2, DType.BF16: 1e-1}  # of the largest output; sixteen bits round at every op
_TOLERANCE_F32 = 1e-4

Outputs = tuple[np.ndarray, ...]


class Checker:
    """Holds random inputs and the results that the module before the next pass gives for them."""

    def __init__(self, module: Module, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.inputs = [random_inputs(module, random_dims(module, generator), generator) for _ in range(TRIALS)]
        self.expected = self._outputs(module)
        self.tolerance = max((_TOLERANCE.get(v.dtype, _TOLERANCE_F32) for v in _floats(module)), default=_TOLERANCE_F32)

    def compare(self, module: Module, item: Pass) -> None:
        """Raises NomulError (NM452) naming the pass where results differ. A lossy pass gives the new expectation."""
        given = self._outputs(module)
        if item.exact:
            for trial, (expected, actual) in enumerate(zip(self.expected, given, strict=True)):
                self._compare_outputs(expected, actual, f"pass '{item.name}', trial {trial}")
        self.expected = given

    def _outputs(self, module: Module) -> list[Outputs]:
        return [interpreter.run(module, *inputs) for inputs in self.inputs]

    def _compare_outputs(self, expected: Outputs, actual: Outputs, where: str) -> None:
        for index, (old, new) in enumerate(zip(expected, actual, strict=True)):
            difference = largest_difference(old, new)
            if difference > self.tolerance:
                message = f"{where}: output {index} differs from the interpreter's result before it by {difference:.3g}"
                raise NomulError("NM452", f"{message} of its largest element", help="this is a fault of nomul's pass")


def largest_difference(old: np.ndarray, new: np.ndarray) -> float:
    """Largest difference relative to the largest finite element of `old`; infinite where shapes or non-finite places
    differ. An element that was NaN before may become anything (attention rows without any visible key)."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return float("inf")
    if not np.issubdtype(old.dtype, np.floating) and old.dtype.kind in "iub":
        return 0.0 if np.array_equal(old, new) else float("inf")
    wide_old, wide_new = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(wide_old)
    same_infinite = np.isnan(wide_old) | finite | (wide_old == wide_new)
    if not same_infinite.all() or not np.isfinite(wide_new[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    scale = max(float(np.abs(wide_old[finite]).max()), 1e-30)
    return float(np.abs(wide_old[finite] - wide_new[finite]).max()) / scale


def _floats(module: Module) -> list:
    return [value for func in module.funcs.values() for value in func.values() if value.dtype.is_float]
