"""`nomul.h` in ctypes: the same structs, in the same order."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

ABI = 1
ALIGNMENT = 64
MAX_RANK, MAX_DIMS, MAX_THREADS = 16, 32, 256
OK = 0
DTYPES = {1: "f64", 2: "f32", 3: "f16", 4: "bf16", 5: "i64", 6: "i32", 7: "i16", 8: "i8", 9: "u8", 10: "bool"}


class NmTensor(Structure):
    _fields_ = [("data", c_void_p), ("shape", POINTER(c_int64)), ("rank", c_int32), ("dtype", c_int32)]


class NmDim(Structure):
    _fields_ = [("name", c_char_p), ("min", c_int64), ("max", c_int64)]


class NmPort(Structure):
    _fields_ = [
        ("name", c_char_p),
        ("shape_text", c_char_p),
        ("shape", POINTER(c_int64)),
        ("rank", c_int32),
        ("dtype", c_int32),
    ]


class NmLevel(Structure):
    _fields_ = [("name", c_char_p), ("features", c_char_p)]


AfterStep = CFUNCTYPE(None, c_void_p, c_uint32)


class NmEnv(Structure):
    _fields_ = [
        ("size", c_uint32),
        ("level", c_uint32),
        ("scratch", c_void_p),
        ("scratch_size", c_size_t),
        ("weights", c_void_p),
        ("weights_size", c_size_t),
        ("pool", c_void_p),
        ("after_step", AfterStep),
        ("user", c_void_p),
    ]


Status = c_int32
_Tensors = POINTER(NmTensor)
_Sizes = POINTER(c_int64)


class NmModel(Structure):
    _fields_ = [
        ("abi", c_uint32),
        ("size", c_uint32),
        ("name", c_char_p),
        ("target", c_char_p),
        ("inputs", POINTER(NmPort)),
        ("outputs", POINTER(NmPort)),
        ("dims", POINTER(NmDim)),
        ("levels", POINTER(NmLevel)),
        ("input_count", c_uint32),
        ("output_count", c_uint32),
        ("dim_count", c_uint32),
        ("level_count", c_uint32),
        ("step_count", c_uint32),
        ("weights_external", c_uint32),
        ("weights_size", c_uint64),
        ("weights", c_void_p),
        ("run", CFUNCTYPE(Status, POINTER(NmEnv), _Tensors, _Tensors)),
        ("bind", CFUNCTYPE(Status, _Tensors, _Sizes)),
        ("input_shape", CFUNCTYPE(Status, _Sizes, c_uint32, _Sizes)),
        ("output_shape", CFUNCTYPE(Status, _Sizes, c_uint32, _Sizes)),
        ("scratch_size", CFUNCTYPE(c_size_t, _Sizes, c_uint32)),
        ("missing_cpu", CFUNCTYPE(c_char_p)),
        ("missing_feature", CFUNCTYPE(c_char_p, c_uint32)),
        ("best_level", CFUNCTYPE(c_uint32)),
        ("explain", CFUNCTYPE(c_char_p, Status)),
        ("describe", CFUNCTYPE(None, Status, c_char_p, c_size_t)),
        ("pool_size", CFUNCTYPE(c_size_t, c_uint32)),
        ("pool_start", CFUNCTYPE(Status, c_void_p, c_size_t, c_uint32, POINTER(c_void_p))),
        ("pool_stop", CFUNCTYPE(Status, c_void_p)),
        ("map_weights", CFUNCTYPE(Status, c_char_p, POINTER(c_void_p), POINTER(c_size_t))),
        ("unmap_weights", CFUNCTYPE(Status, c_void_p, c_size_t)),
        ("check_weights", CFUNCTYPE(Status, POINTER(NmEnv))),
    ]


def describe(model: NmModel, status: int) -> str:
    """The sentence of the library for a status, with the port, axis or dim that it names."""
    text = ctypes.create_string_buffer(1024)
    model.describe(status, text, len(text))
    return text.value.decode(errors="replace")
