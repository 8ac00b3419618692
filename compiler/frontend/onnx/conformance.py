"""Runs the ONNX project's own backend tests through the import and the interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper

from nomul.frontend.common import DATA_DEPENDENT, UNSUPPORTED_FORM, UNSUPPORTED_OP
from nomul.frontend.onnx.importer import import_onnx
from nomul.frontend.onnx.model import OLDEST_OPSET
from nomul.ir import interpreter
from nomul.ir.errors import NomulError

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
_DECLINED = (UNSUPPORTED_OP, UNSUPPORTED_FORM, DATA_DEPENDENT)


@dataclass(frozen=True)
class Case:
    """One test of the suite. sets: (inputs, expected outputs) of each data set."""

    kind: str
    name: str
    model: onnx.ModelProto
    sets: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    """status: `passed`, `declined` (a clear error says that the form is not supported) or `failed`."""

    status: Literal["passed", "declined", "failed"]
    reason: str = ""


@cache
def _suite(kind: str) -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return list(load_model_tests(kind=kind))


def cases(kinds: Sequence[str] = KINDS) -> Iterator[Case]:
    """All tests of these kinds, in order of name."""
    for kind in kinds:
        for test in sorted(_suite(kind), key=lambda test: test.name):
            if test.model is not None:
                yield Case(kind, test.name, test.model, test.data_sets or [], test.rtol, test.atol)
            else:
                yield _from_folder(kind, test)


def _from_folder(kind: str, test: Any) -> Case:
    folder = Path(test.model_dir)
    model = onnx.load(folder / "model.onnx")
    sets = []
    for data in sorted(folder.glob("test_data_set_*")):
        inputs, outputs = (
            [_read(data / f"{side}_{i}.pb", port) for i, port in enumerate(ports)]
            for side, ports in (("input", _real_inputs(model)), ("output", model.graph.output))
        )
        sets.append((inputs, outputs))
    return Case(kind, test.name, model, sets, test.rtol, test.atol)


def _array(data: Any) -> np.ndarray:
    return numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else np.asarray(data)


def _read(path: Path, port: onnx.ValueInfoProto) -> Any:
    content = path.read_bytes()
    if port.type.HasField("tensor_type"):
        return numpy_helper.to_array(onnx.TensorProto.FromString(content))
    return content


def _real_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [port for port in model.graph.input if port.name not in constants]


def run_case(case: Case) -> Outcome:
    """Import and interpret; where an operand must be constant, once more with small inputs given as constants."""
    outcome = _run(case, frozen=False)
    return _run(case, frozen=True) if outcome.status == "declined" else outcome


def _run(case: Case, frozen: bool) -> Outcome:
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if case.model.opset_import[0].version < OLDEST_OPSET:
                return Outcome("declined", f"operator set {case.model.opset_import[0].version}")
            for inputs, expected in case.sets:
                model, rest = _freeze(case.model, inputs) if frozen else (case.model, list(inputs))
                results = interpreter.run(import_onnx(model), *map(_array, rest))
                for result, reference in zip(results, expected, strict=True):
                    _compare(result, _array(reference), case)
    except NomulError as error:
        return Outcome("declined" if error.code in _DECLINED else "failed", str(error))
    except Exception as error:  # a report of everything that goes wrong, by name
        return Outcome("failed", f"{type(error).__name__}: {error}")
    return Outcome("passed")


def _freeze(model: onnx.ModelProto, inputs: Sequence[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with inputs other than the first that look like parameters (whole numbers, vectors) as constants."""
    changed, rest = onnx.ModelProto(), []
    changed.CopyFrom(model)
    for index, (port, given) in enumerate(zip(_real_inputs(model), inputs, strict=True)):
        array = _array(given) if isinstance(given, np.ndarray | np.generic | onnx.TensorProto) else None
        sized = array is not None and (array.ndim <= 1 or array.dtype.kind in "iub") and array.dtype.kind in "iubf"
        if sized and (index > 0 or array.ndim <= 1):  # type: ignore[union-attr]
            changed.graph.initializer.append(numpy_helper.from_array(np.asarray(array), port.name))
        else:
            rest.append(given)
    return changed, rest


def _compare(result: np.ndarray, reference: np.ndarray, case: Case) -> None:
    if result.dtype != reference.dtype or result.shape != reference.shape:
        raise AssertionError(
            f"result {result.dtype}{list(result.shape)}, expected {reference.dtype}{list(reference.shape)}"
        )
    rtol = case.rtol
    if result.dtype.kind not in "biuf":  # bfloat16 compares as f32, to its own precision
        result, reference, rtol = result.astype(np.float32), reference.astype(np.float32), max(rtol, 2**-7)
    np.testing.assert_allclose(result, reference, rtol, case.atol)
