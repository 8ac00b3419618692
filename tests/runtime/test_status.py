"""Every wrong call through the C interface gives a status with text, never a crash."""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Callable
from ctypes import byref, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import pytest
from toy_artifact import Direct, missing_features, toy_inputs, toy_reference

from nomul.runtime import abi

STATUS_SECTION = Path(abi.__file__).with_name("nomul.h").read_text().partition("---- Data")[0]
CODES = {name: int(value) for name, value in re.findall(r"^  (NM_[A-Z_]+) = (\d+),", STATUS_SECTION, re.MULTILINE)}


class Call:
    """One call of run, right until a test spoils it."""

    def __init__(self, direct: Direct, batch: int = 5, length: int = 7) -> None:
        self.direct = direct
        self.x, self.y = toy_inputs(batch, length)
        self.z, self.info = np.zeros((batch, length), np.float32), np.zeros(2, np.int64)
        self.inputs = direct.tensors(self.x, self.y)
        self.outputs = direct.tensors(self.z, self.info)
        self.env = direct.env()

    def run(self) -> int:
        return self.direct.model.run(byref(self.env), self.inputs, self.outputs)

    def status(self) -> tuple[int, str]:
        status = self.run()
        return status & 0xFF, self.direct.describe(status)


def set_tensor(which: str, index: int, **fields: object) -> Callable[[Call], None]:
    def spoil(call: Call) -> None:
        for name, value in fields.items():
            setattr(getattr(call, which)[index], name, value)

    return spoil


def set_shape(which: str, index: int, axis: int, size: int) -> Callable[[Call], None]:
    def spoil(call: Call) -> None:
        getattr(call, which)[index].shape[axis] = size

    return spoil


def set_env(**fields: object) -> Callable[[Call], None]:
    def spoil(call: Call) -> None:
        for name, value in fields.items():
            setattr(call.env, name, value)

    return spoil


def shift(which: str, field: str, by: int) -> Callable[[Call], None]:
    def spoil(call: Call) -> None:
        holder = call.env if which == "env" else getattr(call, which)[1]
        setattr(holder, field, getattr(holder, field) + by)

    return spoil


WRONG_CALLS = [
    (set_tensor("inputs", 0, data=None), "NM_NULL_POINTER", "input 'x'"),
    (set_tensor("outputs", 1, data=None), "NM_NULL_POINTER", r"output 'info' of \[2\]"),
    (set_tensor("inputs", 1, shape=None), "NM_NULL_POINTER", "input 'y'"),
    (set_tensor("inputs", 1, rank=1), "NM_WRONG_RANK", "input 'y'"),
    (set_tensor("outputs", 0, rank=-1), "NM_WRONG_RANK", "output 'z'"),
    (set_tensor("inputs", 0, dtype=1), "NM_WRONG_DTYPE", "input 'x'"),
    (set_tensor("outputs", 1, dtype=99), "NM_WRONG_DTYPE", "output 'info'"),
    (set_shape("outputs", 1, 0, 3), "NM_WRONG_SHAPE", "output 'info', axis 0"),
    (set_shape("inputs", 0, 0, -1), "NM_WRONG_SHAPE", "input 'x', axis 0"),
    (set_shape("inputs", 1, 1, 2**63 - 1), "NM_WRONG_SHAPE", "input 'y', axis 1"),
    (set_shape("inputs", 1, 1, -(2**63)), "NM_WRONG_SHAPE", "input 'y', axis 1"),
    (set_shape("inputs", 1, 1, 16), "NM_INCONSISTENT_DIM", "input 'y', axis 1"),
    (set_shape("outputs", 0, 1, 8), "NM_INCONSISTENT_DIM", "output 'z', axis 1"),
    (set_shape("inputs", 0, 0, 4097), "NM_DIM_OUT_OF_RANGE", r"B in \[1, 4096\]"),
    (set_shape("inputs", 0, 1, 0), "NM_DIM_OUT_OF_RANGE", r"S in \[1, 512\]"),
    (set_shape("inputs", 0, 1, 2**61 - 1), "NM_DIM_OUT_OF_RANGE", r"S in \[1, 512\]"),
    (shift("inputs", "data", 2), "NM_MISALIGNED", "input 'y'"),
    (shift("outputs", "data", 4), "NM_MISALIGNED", "output 'info'"),
    (shift("env", "scratch", 32), "NM_SCRATCH_MISALIGNED", "NM_ALIGNMENT"),
    (set_env(scratch=None), "NM_NULL_POINTER", "NULL"),
    (set_env(scratch_size=0), "NM_SCRATCH_SHORT", "less than scratch_size"),
    (set_env(size=8), "NM_WRONG_ENV", "sizeof"),
    (set_env(level=9), "NM_NO_SUCH_LEVEL", "larger than level_count"),
]


@pytest.mark.parametrize(("spoil", "code", "words"), WRONG_CALLS)
def test_a_wrong_call(direct: Direct, spoil: Callable[[Call], None], code: str, words: str) -> None:
    call = Call(direct)
    spoil(call)
    number, text = call.status()
    assert (number, bool(re.search(words, text))) == (CODES[code], True), text
    assert not call.z.any()


def test_a_right_call(direct: Direct) -> None:
    call = Call(direct)
    assert call.status() == (0, "success")
    np.testing.assert_array_equal(call.z, toy_reference(call.x, call.y))


def test_null_arguments(direct: Direct) -> None:
    call, model = Call(direct), direct.model
    null = CODES["NM_NULL_POINTER"]
    assert model.run(None, call.inputs, call.outputs) == null
    assert model.run(byref(call.env), None, call.outputs) == null
    assert model.run(byref(call.env), call.inputs, None) == null
    assert model.bind(None, (c_int64 * 2)()) == null
    assert model.bind(call.inputs, None) == null
    assert model.output_shape(None, 0, (c_int64 * 2)()) == null
    assert model.input_shape((c_int64 * 2)(1, 1), 0, None) == null
    assert model.pool_start(None, 0, 2, byref(c_void_p())) == null
    assert model.pool_stop(None) == null
    assert model.check_weights(None) == null
    assert model.map_weights(None, byref(c_void_p()), byref(c_size_t())) == null
    model.describe(null, None, 5)


def test_scratch_of_exactly_the_right_size_and_one_byte_less(direct: Direct) -> None:
    for threads in (1, 3):
        needed = direct.model.scratch_size((c_int64 * 2)(5, 7), threads)
        pool = start_pool(direct, threads)
        call = Call(direct)
        call.env.pool = pool
        call.env.scratch_size = needed - 1
        assert call.status()[0] == CODES["NM_SCRATCH_SHORT"]
        call.env.scratch_size = needed
        assert call.status()[0] == 0
        direct.model.pool_stop(pool)


def start_pool(direct: Direct, threads: int) -> c_void_p:
    size, pool = direct.model.pool_size(threads), c_void_p()
    assert direct.model.pool_start(direct.memory(size), size, threads, byref(pool)) == 0
    return pool


def test_scratch_size_of_dims_out_of_range_is_zero(direct: Direct) -> None:
    assert direct.model.scratch_size((c_int64 * 2)(5, 513), 1) == 0
    assert direct.model.scratch_size((c_int64 * 2)(-1, 7), 1) == 0
    assert direct.model.scratch_size((c_int64 * 2)(5, 7), 0) == 0
    assert direct.model.scratch_size((c_int64 * 2)(5, 7), 257) == 0
    assert direct.model.scratch_size((c_int64 * 2)(5, 7), 1) % 64 == 0


def test_shapes_follow_from_dims(direct: Direct) -> None:
    shape, dims = (c_int64 * 2)(), (c_int64 * 2)()
    call = Call(direct, 3, 4)
    assert direct.model.bind(call.inputs, dims) == 0 and list(dims) == [3, 4]
    assert direct.model.input_shape(dims, 1, shape) == 0 and list(shape) == [3, 9]
    assert direct.model.output_shape(dims, 0, shape) == 0 and list(shape) == [3, 4]
    assert direct.model.output_shape(dims, 2, shape) == CODES["NM_OUT_OF_BOUNDS"]
    assert direct.model.input_shape((c_int64 * 2)(0, 1), 0, shape) & 0xFF == CODES["NM_DIM_OUT_OF_RANGE"]


def test_pool_memory_is_checked(direct: Direct) -> None:
    model, pool = direct.model, c_void_p()
    size = model.pool_size(4)
    failed = CODES["NM_POOL_FAILED"]
    assert model.pool_size(0) == model.pool_size(257) == 0
    assert model.pool_start(direct.memory(size), size - 1, 4, byref(pool)) == failed
    assert model.pool_start(direct.memory(size, misalign=8), size, 4, byref(pool)) == failed
    assert model.pool_start(direct.memory(size), size, 0, byref(pool)) == failed
    assert pool.value is None


def test_an_unknown_abi_gives_no_model(direct: Direct) -> None:
    assert not direct.query(0) and not direct.query(2) and direct.query(1)


@pytest.mark.skipif(not missing_features(), reason="this CPU has all features")
def test_a_missing_cpu_feature(direct: Direct) -> None:
    call = Call(direct)
    call.env.level = 1
    number, text = call.status()
    assert number == CODES["NM_MISSING_CPU"] and "lacks an instruction set" in text
    assert direct.model.missing_feature(1).decode() == missing_features()[0]
    assert direct.model.missing_feature(2) is None and direct.model.missing_cpu() is None
    assert direct.model.best_level() == 2


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda data: None, "NM_WEIGHTS_MISSING"),
        (lambda data: data[:-1], "NM_WEIGHTS_SHORT"),
        (lambda data: data[:20] + b"X" + data[21:], "NM_WEIGHTS_WRONG"),
        (lambda data: data[:40] + b"\0" + data[41:], "NM_WEIGHTS_WRONG"),
        (lambda data: data, "NM_OK"),
    ],
)
def test_external_weights(
    external: Direct, external_library: Path, spoil: Callable[[bytes], bytes | None], code: str
) -> None:
    call = Call(external)
    data = spoil(Path(f"{external_library}.weights").read_bytes())
    if data is not None:
        call.env.weights, call.env.weights_size = external.memory(len(data)), len(data)
        ctypes.memmove(call.env.weights, data, len(data))
    assert call.status()[0] == CODES[code]
    if code == "NM_OK":
        np.testing.assert_array_equal(call.z, toy_reference(call.x, call.y))
        call.env.weights += 32
        assert call.status()[0] == CODES["NM_WEIGHTS_MISALIGNED"]


def test_copies_of_embedded_weights(direct: Direct) -> None:
    call, size = Call(direct), direct.model.weights_size
    call.env.weights, call.env.weights_size = direct.memory(size), size
    ctypes.memmove(call.env.weights, direct.model.weights, size)
    assert call.status()[0] == CODES["NM_OK"]
    np.testing.assert_array_equal(call.z, toy_reference(call.x, call.y))
    assert direct.model.check_weights(byref(call.env)) == 0
    ctypes.memset(call.env.weights, 1, 1)
    assert call.status()[0] == CODES["NM_WEIGHTS_WRONG"]
    call.env.weights_size -= 1
    assert call.status()[0] == CODES["NM_WEIGHTS_SHORT"]


def test_check_weights_reads_all_of_them(external: Direct, external_library: Path) -> None:
    data = Path(f"{external_library}.weights").read_bytes()
    assert hashlib.sha256(data[64:]).digest() == data[24:56]
    env = external.env(weights=external.memory(len(data)), weights_size=len(data))
    ctypes.memmove(env.weights, data, len(data))
    assert external.model.check_weights(byref(env)) == 0
    ctypes.memset(env.weights + len(data) - 1, 1, 1)
    assert external.model.check_weights(byref(env)) == CODES["NM_WEIGHTS_WRONG"]


def test_embedded_weights_can_be_checked_too(direct: Direct) -> None:
    assert direct.model.check_weights(byref(direct.env())) == 0


def test_every_code_has_a_sentence_and_others_have_one_too(direct: Direct) -> None:
    sentences = [direct.model.explain(number).decode() for number in CODES.values()]
    assert len(set(sentences)) == len(CODES) == 22
    assert direct.model.explain(200) == direct.model.explain(-1) == b"unknown status"


def test_describe_fits_its_text_into_any_buffer(direct: Direct) -> None:
    call = Call(direct)
    call.inputs[1].rank = 1
    status = call.run()
    full = direct.describe(status).encode()
    for size in range(1, len(full) + 3):
        text = ctypes.create_string_buffer(b"#" * (size + 8))
        direct.model.describe(status, text, size)
        assert text.value == full[: size - 1]
        assert text.raw[size : size + 8] == b"#" * 8


@pytest.mark.parametrize("status", [-1, 2**31 - 1, 0x7FFFFF, 0x3FF10, 5 | 3 << 8 | 40 << 10])
def test_describe_survives_any_number(direct: Direct, status: int) -> None:
    assert direct.describe(status)
