"""Calibration data: a .npz file, a folder of .npy files, or any iterable, as batches that fit the model's inputs.

An array is one batch, or, with one axis more than the input, a batch for each index of its first axis. Several inputs:
a .npz has an array by the name of each; a folder has NAME.npy, or NAME.ANYTHING.npy for the batch ANYTHING.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nomul.arguments import load_arrays
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Value
from nomul.ir.interpreter import bind_dims
from nomul.passes.calibrate import Batch

AT_ONCE = 16  # samples that the interpreter runs together, where the first axis is one batch axis for all inputs
MOST_PROBLEMS = 8


def read_calibration(source: Any, module: Module) -> list[Batch]:
    """Batches of arrays in the order of the inputs of @main.

    source: path of a .npz file or a folder; or an iterable of arrays (one input), sequences of arrays, or mappings by
    input name. Raises NomulError (NM017) with all that does not fit: names, dtypes, shapes, an empty source."""
    names = [param.name for param in module.main.params]
    batches = [batch for given in _given(source, names) for batch in _split(_by_name(given, names), module)]
    if not batches:
        raise NomulError("NM017", "the calibration data is empty", help=_help(module))
    problems = [Problem("NM017", f"calibration batch {number}: {fault}") for number, fault in _faults(batches, module)]
    if problems:
        raise NomulError.many([*problems[:MOST_PROBLEMS]])
    return [_cast(batch, module.main.params) for batch in batches]


def _given(source: Any, names: Sequence[str]) -> Iterator[Any]:
    """What the source holds, piece by piece."""
    if isinstance(source, str | Path):
        path = Path(source)
        yield from _folder(path, names) if path.is_dir() else [load_arrays(path)]
    elif isinstance(source, Mapping):
        yield source
    elif isinstance(source, Iterable):
        yield from source
    else:
        raise NomulError("NM017", f"a {type(source).__name__} is no calibration data", help=_FORMS)


_FORMS = "give a .npz file, a folder of .npy files, or an iterable of batches"


def _folder(path: Path, names: Sequence[str]) -> Iterator[Any]:
    batches: dict[str, dict[str, np.ndarray]] = {}
    for file in sorted(path.glob("*.npy")):
        name, number = next(((n, file.stem[len(n) :]) for n in names if _is_of(file.stem, n)), (None, file.stem))
        if name is None and len(names) > 1:
            raise NomulError("NM017", f"{file} belongs to no input", help=f"the inputs: {', '.join(names)}")
        array = load_arrays(file)
        assert isinstance(array, np.ndarray)
        batches.setdefault(number, {})[name or names[0]] = array
    yield from batches.values()
    for file in sorted(path.glob("*.npz")):
        yield load_arrays(file)


def _is_of(stem: str, name: str) -> bool:
    return stem == name or stem.startswith(f"{name}.")


def _by_name(given: Any, names: Sequence[str]) -> list[np.ndarray]:
    """One array for each input. Raises NomulError (NM017)."""
    if isinstance(given, Mapping):
        missing = [f"no input {name}" for name in names if name not in given]
        unknown = [f"unknown input {name}" for name in given if name not in names]
        if missing or unknown:
            what = "; ".join([*missing, *unknown])
            raise NomulError("NM017", f"calibration data has {what}", help=f"the inputs: {', '.join(names)}")
        return [np.asarray(given[name]) for name in names]
    arrays = [np.asarray(item) for item in given] if isinstance(given, tuple | list) else [np.asarray(given)]
    if len(arrays) != len(names):
        what = f"calibration data has {len(arrays)} arrays, but the model {len(names)} inputs"
        raise NomulError("NM017", what, help=f"the inputs: {', '.join(names)}")
    return arrays


def _split(arrays: list[np.ndarray], module: Module) -> list[Batch]:
    """One batch; several where all arrays have an axis more than their inputs; parts of one along a batch axis."""
    params = module.main.params
    stacked = all(array.ndim == param.type.rank + 1 for array, param in zip(arrays, params, strict=True))
    if stacked and len({len(array) for array in arrays}) == 1:
        return [list(items) for items in zip(*arrays, strict=True)]
    lengths = {array.shape[:1] for array in arrays}
    if not _share_first_axis(params) or len(lengths) != 1 or lengths == {()}:
        return [arrays]
    (length,) = next(iter(lengths))
    low, high = module.dims[str(params[0].shape[0])]
    step = int(max(low, min(high, AT_ONCE)))
    if length < step or (length % step and length % step < low):
        return [arrays]
    return [[array[start : start + step] for array in arrays] for start in range(0, length, step)]


def _share_first_axis(params: Sequence[Value]) -> bool:
    """Whether the first axis of every input is one and the same named size, which stands nowhere else."""
    sizes = [str(size) for param in params for size in param.shape]
    firsts = [str(param.shape[0]) for param in params if param.type.rank]
    first = params[0].shape[0] if firsts else None
    return (
        first is not None
        and len(firsts) == len(params)
        and len(set(firsts)) == 1
        and first.names() == {firsts[0]}
        and sizes.count(firsts[0]) == len(params)
    )


def _faults(batches: Sequence[Batch], module: Module) -> Iterator[tuple[int, str]]:
    params = module.main.params
    for number, batch in enumerate(batches):
        wrong = [_kind_fault(array, param) for array, param in zip(batch, params, strict=True)]
        faults = [fault for fault in wrong if fault]
        if not faults:
            try:
                bind_dims(module, [param.type for param in params], _cast(batch, params))
            except NomulError as error:
                faults = [error.message]
        yield from ((number, fault) for fault in faults)


def _kind_fault(array: np.ndarray, param: Value) -> str | None:
    wanted = param.dtype.numpy
    if not np.can_cast(array.dtype, wanted, "same_kind"):
        return f"input {param.name} is {array.dtype}, but must be {param.dtype}"
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return f"input {param.name} has values that are not finite"
    return None


def _cast(batch: Batch, params: Sequence[Value]) -> list[np.ndarray]:
    return [array.astype(param.dtype.numpy, copy=False) for array, param in zip(batch, params, strict=True)]


def _help(module: Module) -> str:
    return f"the inputs: {', '.join(f'{param.name} : {param.type}' for param in module.main.params)}"
