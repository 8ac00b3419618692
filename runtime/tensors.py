"""Arguments and results of an artifact: what a port takes, and numpy, DLPack and plain Python values made to fit it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.runtime.errors import RuntimeFault

_CPU_DEVICES = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost


@dataclass(frozen=True)
class Port:
    """An input or output. dtype: as in the IR, e.g. "f32"; shape: a number, or text such as "S" or "2*S + 1"."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of an IR dtype; bf16 needs the package ml_dtypes."""
    if name == "bf16":
        from ml_dtypes import bfloat16  # only bf16 needs it, and the loader should work with numpy alone

        dtype: np.dtype[Any] = np.dtype(bfloat16)
        return dtype
    plain = {"f64": "f8", "f32": "f4", "f16": "f2", "i64": "i8", "i32": "i4", "i16": "i2", "i8": "i1", "u8": "u1"}
    return np.dtype(plain.get(name, "?"))


def as_array(value: Any, port: Port) -> np.ndarray:
    """`value` as a dense aligned array of the port's dtype; copies only what is not dense or not aligned.

    Raises RuntimeFault NM610 for another dtype, a tensor on a device, or something that is no tensor."""
    wanted = numpy_dtype(port.dtype)
    array = value if isinstance(value, np.ndarray) else _import(value, port, wanted)
    if array.dtype != wanted:
        message = f"input '{port.name}' takes {port.dtype}, not {array.dtype}"
        raise RuntimeFault("NM610", message, f"convert it, e.g. with x.astype('{wanted}')")
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C", copy=True)


def _import(value: Any, port: Port, wanted: np.dtype[Any]) -> np.ndarray:
    if hasattr(value, "__dlpack__"):
        return _from_dlpack(value, port)
    if hasattr(value, "__array__"):
        return np.asarray(value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise RuntimeFault("NM610", f"input '{port.name}': {error}") from error
    if array.dtype == object:
        raise RuntimeFault("NM610", f"input '{port.name}' is a {type(value).__name__}, not a tensor")
    return _fit_numbers(array, wanted)


def _fit_numbers(array: np.ndarray, wanted: np.dtype[Any]) -> np.ndarray:
    """Plain Python numbers have no size, so they take the port's; but 1.5 does not become 1, nor 300 a byte."""
    if array.dtype.kind not in "biuf":
        return array
    fitted = array.astype(wanted)
    harmless = np.can_cast(array.dtype, wanted, "same_kind") and wanted.kind not in "iu"
    return fitted if harmless or np.array_equal(fitted, array) else array


def _from_dlpack(value: Any, port: Port) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach()  # torch does not export a tensor that takes part in a gradient
    try:
        if value.__dlpack_device__()[0] not in _CPU_DEVICES:
            raise RuntimeFault("NM610", f"input '{port.name}' is not in main memory", "move it there: x.cpu()")
        if str(getattr(value, "dtype", "")) == "torch.bfloat16":  # numpy's DLPack import knows no bf16
            bits = np.from_dlpack(value.contiguous().view(sys.modules["torch"].int16))
            return bits.view(numpy_dtype("bf16"))
        return np.from_dlpack(value)
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        raise RuntimeFault("NM610", f"input '{port.name}' cannot be taken over: {error}") from error


def arrange(ports: tuple[Port, ...], values: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
    """One value per port, from positional and named ones. Raises RuntimeFault NM610, naming all that is amiss."""
    problems = []
    if len(values) > len(ports):
        problems.append(f"{len(values)} values for {len(ports)} inputs")
    given = dict(zip((port.name for port in ports), values, strict=False))
    problems += [f"'{name}' is given twice" for name in named if name in given]
    given |= named
    known = {port.name for port in ports}
    problems += [f"there is no input '{name}'" for name in named if name not in known]
    problems += [f"input '{name}' is missing" for name in (port.name for port in ports) if name not in given]
    if problems:
        raise RuntimeFault("NM610", "; ".join(problems), f"inputs: {', '.join(map(str, ports))}")
    return [given[port.name] for port in ports]
