"""`--check`: after each pass the interpreter must give the same results on random inputs, up to rounding."""

from __future__ import annotations

import numpy as np

from nomul.ir import interpreter
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.types import DType
from nomul.passes.base import Pass
from nomul.passes.random_inputs import random_dims, random_inputs

TRIALS = 2
OTHER_RESULTS = "NM452"
UNRUNNABLE = (ArithmeticError, AssertionError, LookupError, ValueError)  # as numpy says that sizes do not fit together
_BUG = "this is a fault of nomul's pass"
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

    def compare(self, module: Module, item: Pass) -> str | None:
        """What there is to note of a lossy pass: its error, which must not be above its bound; its results are what
        the next pass must keep. Raises NomulError naming the pass: NM452 other results, NM461 an error above the bound.
        """
        try:
            given = self._outputs(module)
        except UNRUNNABLE as error:
            message = f"pass '{item.name}': the interpreter cannot run its result: {error}"
            raise NomulError(OTHER_RESULTS, message, help=_BUG) from error
        if item.exact:
            for trial, (expected, actual) in enumerate(zip(self.expected, given, strict=True)):
                self._compare_outputs(expected, actual, f"pass '{item.name}', trial {trial}")
            note = None
        else:
            note = self._lossy(given, item)
        self.expected = given
        return note

    def _outputs(self, module: Module) -> list[Outputs]:
        return [interpreter.run(module, *inputs) for inputs in self.inputs]

    def _compare_outputs(self, expected: Outputs, actual: Outputs, where: str) -> None:
        for index, (old, new) in enumerate(zip(expected, actual, strict=True)):
            difference = largest_difference(old, new)
            if difference > self.tolerance:
                message = f"{where}: output {index} differs from the interpreter's result before it by {difference:.3g}"
                raise NomulError(OTHER_RESULTS, f"{message} of its largest element", help=_BUG)

    def _lossy(self, given: list[Outputs], item: Pass) -> str:
        """One error for each output, the largest of all trials."""
        trials = zip(self.expected, given, strict=True)
        errors = np.max([list(map(relative_error, old, new)) for old, new in trials], axis=0)
        worst = float(errors.max())
        if item.bound is not None and not worst <= item.bound:
            message = f"pass '{item.name}' changes output {int(errors.argmax())} by {worst:.3g} of its norm"
            raise NomulError("NM461", f"{message}, and {item.bound:g} is allowed", help="give more bits to some layers")
        return "check: error of the outputs relative to their norm: " + ", ".join(f"{error:.3g}" for error in errors)


def relative_error(old: np.ndarray, new: np.ndarray) -> float:
    """Norm of the difference over the norm of `old`, of the elements that are finite in `old`."""
    wide_old, wide_new = old.astype(np.float64), new.astype(np.float64)
    finite = np.isfinite(wide_old)
    norm = float(np.linalg.norm(wide_old[finite]))
    return float(np.linalg.norm(wide_old[finite] - wide_new[finite])) / max(norm, 1e-30)


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


def _floats(module: Module) -> list[Value]:
    return [value for func in module.funcs.values() for value in func.values() if value.dtype.is_float]
