"""How far two results are apart, and what other implementations say to the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Implementation = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Difference:
    """absolute: largest difference of two elements; relative: that, over the largest magnitude expected.

    Both are infinite where shapes differ or one side has a value that is not finite and the other has another."""

    absolute: float
    relative: float


def difference(expected: np.ndarray, given: np.ndarray) -> Difference:
    """Of two arrays of numbers or bools."""
    if expected.shape != given.shape:
        return Difference(float("inf"), float("inf"))
    if not expected.size:
        return Difference(0.0, 0.0)
    wide, other = expected.astype(np.float64), given.astype(np.float64)
    finite = np.isfinite(wide) & np.isfinite(other)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True):
        return Difference(float("inf"), float("inf"))
    absolute = float(np.abs(wide[finite] - other[finite]).max(initial=0.0))
    largest = float(np.abs(wide[finite]).max(initial=0.0))
    return Difference(absolute, absolute / largest if largest else absolute)


def onnxruntime_of(path: Path, threads: int = 1) -> Implementation | None:
    """onnxruntime on an ONNX file; None where it is not installed."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]
    return lambda values: session.run(None, dict(zip(names, values, strict=True)))
