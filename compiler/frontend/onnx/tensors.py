"""TensorProto to numpy, without trusting a single number in it: sizes are checked against the bytes that are there,
and external data is memory-mapped only from inside the model's folder."""

from __future__ import annotations

import os
import stat
from math import prod
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
from onnx import TensorProto

from nomul.frontend.common import BAD_PATH, BAD_SOURCE, UNSUPPORTED_FORM
from nomul.ir.errors import NomulError
from nomul.ir.types import DType

_IR_TYPES = {
    TensorProto.FLOAT: DType.F32,
    TensorProto.DOUBLE: DType.F64,
    TensorProto.FLOAT16: DType.F16,
    TensorProto.BFLOAT16: DType.BF16,
    TensorProto.INT64: DType.I64,
    TensorProto.INT32: DType.I32,
    TensorProto.INT16: DType.I16,
    TensorProto.INT8: DType.I8,
    TensorProto.UINT8: DType.U8,
    TensorProto.BOOL: DType.BOOL,
}
# Stored types without arithmetic of their own: constants of them are widened as they are read.
_WIDENED = {
    TensorProto.UINT16: (np.dtype(np.uint16), DType.I32),
    TensorProto.UINT32: (np.dtype(np.uint32), DType.I64),
    TensorProto.UINT64: (np.dtype(np.uint64), DType.I64),
    TensorProto.FLOAT8E4M3FN: (np.dtype(ml_dtypes.float8_e4m3fn), DType.F32),
    TensorProto.FLOAT8E4M3FNUZ: (np.dtype(ml_dtypes.float8_e4m3fnuz), DType.F32),
    TensorProto.FLOAT8E5M2: (np.dtype(ml_dtypes.float8_e5m2), DType.F32),
    TensorProto.FLOAT8E5M2FNUZ: (np.dtype(ml_dtypes.float8_e5m2fnuz), DType.F32),
}
_NIBBLES = {TensorProto.INT4: DType.I8, TensorProto.UINT4: DType.U8}
_TYPED_FIELDS = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}


def ir_dtype(code: int, what: str) -> DType:
    """The IR's element type for an ONNX one. Raises NomulError (NM202), naming `what`, where there is none."""
    if code in _IR_TYPES:
        return _IR_TYPES[code]
    raise NomulError(UNSUPPORTED_FORM, f"{what} has the element type {_type_text(code)}, which is not supported")


def onnx_dtype(dtype: DType) -> int:
    """The ONNX code of an element type."""
    return next(code for code, known in _IR_TYPES.items() if known is dtype)


def constant_dtype(tensor: TensorProto) -> DType:
    """The element type under which `read_tensor` gives a constant. Raises NomulError (NM202)."""
    if tensor.data_type in _WIDENED:
        return _WIDENED[tensor.data_type][1]
    return _NIBBLES.get(tensor.data_type) or ir_dtype(tensor.data_type, f"constant {tensor.name!r}")


def tensor_shape(tensor: TensorProto) -> tuple[int, ...]:
    """Raises NomulError (NM200) for a negative size."""
    if any(size < 0 for size in tensor.dims):
        raise NomulError(BAD_SOURCE, f"constant {tensor.name!r} has a negative size in {list(tensor.dims)}")
    return tuple(tensor.dims)


def read_tensor(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    """The constant as an array of `constant_dtype` and `tensor_shape`; external data stays a read-only memory map.

    Raises NomulError: NM200 where the data is short or long, NM202 for a type, NM205 for a path outside `folder`."""
    shape, dtype, stored = tensor_shape(tensor), constant_dtype(tensor), _stored_dtype(tensor)
    nibbles = tensor.data_type in _NIBBLES
    size = prod(shape)
    packed = ((size + 1) // 2 if nibbles else size) * stored.itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        flat = _external(tensor, folder, stored, packed)
    elif tensor.HasField("raw_data"):
        flat = _raw(tensor, stored, packed)
    else:
        flat = _typed(tensor, stored, packed // stored.itemsize)
    if nibbles:
        flat = _unpack_nibbles(flat, size, tensor.data_type == TensorProto.INT4)
    return flat.reshape(shape).astype(dtype.numpy, copy=False)


def _stored_dtype(tensor: TensorProto) -> np.dtype:
    if tensor.data_type in _WIDENED:
        return _WIDENED[tensor.data_type][0]
    return np.dtype(np.uint8) if tensor.data_type in _NIBBLES else constant_dtype(tensor).numpy


def _raw(tensor: TensorProto, stored: np.dtype, nbytes: int) -> np.ndarray:
    data = tensor.raw_data
    _check_bytes(tensor, len(data), nbytes)
    return np.frombuffer(data, stored)


def _typed(tensor: TensorProto, stored: np.dtype, count: int) -> np.ndarray:
    """Numbers in one of the typed fields; sixteen- and eight-bit floats lie there as bit patterns."""
    numbers = getattr(tensor, _TYPED_FIELDS.get(tensor.data_type, "int32_data"))
    _check_bytes(tensor, len(numbers) * stored.itemsize, count * stored.itemsize)
    if stored.kind in "iub" or tensor.data_type in _TYPED_FIELDS:
        return np.array(numbers, dtype=stored if stored.kind in "fu" else np.int64).astype(stored, copy=False)
    bits = np.array(numbers, dtype=np.int64).astype(np.uint16 if stored.itemsize == 2 else np.uint8)
    return bits.view(stored)


def _check_bytes(tensor: TensorProto, have: int, need: int) -> None:
    if have != need:
        shape = list(tensor.dims)
        message = f"constant {tensor.name!r} of shape {shape} needs {need} bytes, but the file holds {have}"
        raise NomulError(BAD_SOURCE, message)


def _unpack_nibbles(packed: np.ndarray, size: int, signed: bool) -> np.ndarray:
    """Two numbers a byte, the first in the low half."""
    halves = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:size]
    return ((halves ^ 8).astype(np.int8) - 8) if signed else halves


def _external(tensor: TensorProto, folder: Path | None, stored: np.dtype, nbytes: int) -> np.ndarray:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = _inside(folder, entries.get("location", ""), tensor.name)
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(nbytes)))
    except ValueError as error:
        raise NomulError(BAD_SOURCE, f"constant {tensor.name!r}: bad offset or length of external data") from error
    _check_bytes(tensor, length, nbytes)
    if nbytes == 0:
        return np.zeros(0, stored)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise NomulError(BAD_PATH, f"external data of {tensor.name!r} is not a regular file")
        if offset < 0 or offset + nbytes > status.st_size:
            place = f"ends at byte {offset + nbytes}, but {path.name} has {status.st_size}"
            raise NomulError(BAD_SOURCE, f"external data of {tensor.name!r} {place}")
        return np.memmap(path, dtype=stored, mode="r", offset=offset, shape=(nbytes // stored.itemsize,))
    except OSError as error:
        raise NomulError(BAD_SOURCE, f"cannot read the external data of {tensor.name!r}: {error.strerror}") from error


def _inside(folder: Path | None, location: str, name: str) -> Path:
    """The real path of external data. Raises NomulError (NM205) where it is not inside the model's folder."""
    pure = PurePosixPath(location.replace("\\", "/"))
    if folder is None:
        raise NomulError(
            BAD_PATH, f"{name!r} has external data, but the model did not come from a file", help="pass its path"
        )
    if not pure.parts or "\0" in location or pure.is_absolute() or ".." in pure.parts or ":" in location:
        raise NomulError(BAD_PATH, f"external data of {name!r} names the path {location!r}, outside the model's folder")
    root = folder.resolve()
    path = (root / pure).resolve()
    if not path.is_relative_to(root):
        raise NomulError(BAD_PATH, f"external data of {name!r} leads through a link out of the model's folder")
    return path


def _type_text(code: int) -> str:
    names = {number: name for name, number in TensorProto.DataType.items()}
    return names.get(code, f"number {code}").lower()
