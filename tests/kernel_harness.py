"""Compiles kernels and calls them through ctypes between unmapped pages, for comparison with the interpreter."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from nomul.backends.build import packed_fields
from nomul.backends.group import Group
from nomul.backends.lower import lower_to_object
from nomul.backends.registry import Built, Kernel
from nomul.backends.target import Target, find_target
from nomul.ir import interpreter
from nomul.ir.builder import Builder
from nomul.ir.dim import Range
from nomul.ir.encodings.terms import EncodedArray
from nomul.ir.graph import Func, Module, Value, Weight
from nomul.ir.types import Tensor
from tests.foreign_kernels import Call, Emulator

Entry = Callable[[Call], list[np.ndarray]]
PAGE = mmap.PAGESIZE
Input = np.ndarray | EncodedArray
_LIBC = ctypes.CDLL(None, use_errno=True)


EMULATED = ("aarch64-linux", "arm-linux", "riscv64-linux")


def levels() -> tuple[Target, ...]:
    """Every instruction-set level that this machine runs and for which a kernel without `uses` is compiled."""
    return tuple(target for target in find_target("host") if target.base in ("", target.level))


def level_names() -> list[str]:
    return [target.level for target in levels()]


def levels_for(*features: str) -> list[str]:
    """Levels of this machine that differ for a kernel which looks at the features: the lowest with each set of them."""
    found = {(target.base, target.features.intersection(features)): target.level for target in find_target("host")}
    return list(found.values())


def every_level() -> list[Any]:
    """For `parametrize`: levels of this machine, and slowly those of others, in an emulator."""
    others = [target.name for family in EMULATED for target in find_target(family) if target.level not in level_names()]
    return [*level_names(), *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


def level(name: str) -> Target:
    """By its level for this machine, by its full name for others."""
    found = [target for target in find_target("host") if target.level == name]
    return found[0] if found else find_target(name)[0]


def make_group(
    build: Callable[..., Any], *types: Tensor, ranges: Mapping[str, Range] | None = None, weights: Sequence[int] = ()
) -> Group:
    """A group from `build(builder, *params)`, which returns a Value or a tuple of them."""
    func = Func("g", [Value(f"x{i}", type) for i, type in enumerate(types)])
    returned = build(Builder(func), *func.params)
    func.returns = list(returned) if isinstance(returned, tuple) else [returned]
    names = {name for value in func.values() for size in value.shape for name in size.names()}
    return Group(func, frozenset(weights), dict.fromkeys(names, (1, 4096)) | dict(ranges or {}))


class Guarded:
    """A copy of an array whose last byte lies before an unmapped page. sound: whether the bytes before it were kept."""

    def __init__(self, array: np.ndarray, alignment: int = 1) -> None:
        room = -(-array.nbytes // PAGE) * PAGE + PAGE
        self._memory = mmap.mmap(-1, room + PAGE)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        assert (
            _LIBC.mprotect(ctypes.c_void_p(start + room), PAGE, mmap.PROT_NONE if hasattr(mmap, "PROT_NONE") else 0)
            == 0
        )
        offset = (room - array.nbytes) // alignment * alignment
        self.address = start + offset
        self._front = np.frombuffer(self._memory, np.uint8, offset)
        self._front[:] = 0xA5
        self._back = np.frombuffer(self._memory, np.uint8, room - offset - array.nbytes, offset + array.nbytes)
        self._back[:] = 0xA5
        self.array = np.frombuffer(self._memory, array.dtype, array.size, offset).reshape(array.shape)
        self.array[...] = array

    @property
    def sound(self) -> bool:
        return bool((self._front == 0xA5).all() and (self._back == 0xA5).all())


class CompiledKernel:
    """One kernel for one target, callable with arrays."""

    def __init__(self, group: Group, built: Built, target: Target, entry: Any = None) -> None:
        self.group, self.built, self.target = group, built, target
        self.entry = entry or link({"k": built.function}, target)["k"]

    def __call__(
        self, *inputs: Input, dims: Mapping[str, int] | None = None, pieces: int = 1, inplace: int | None = None
    ) -> list[np.ndarray]:
        """Results for inputs in the order of the parameters; the tile range is run in `pieces`, last piece first.

        inplace: position of the parameter whose memory the result shares."""
        dims = dict(dims or bound_dims(self.group, inputs))
        operands = [field for position, array in enumerate(inputs) for field in self._operand(position, array)]
        outputs = [value for value in self.group.func.returns if inplace is None]
        filled = [np.full(interpreter.type_shape(value.type, dims), 77, value.dtype.numpy) for value in outputs]
        buffers = [*operands, *((array, 1) for array in filled)]
        shown = [inplace] if inplace is not None else list(range(len(operands), len(buffers)))
        return self.entry(
            Call(
                buffers,
                [*range(len(operands)), *shown],
                [dims[name] for name in self.group.dims],
                shown,
                self.built.tiles.evaluate(dims),
                pieces,
                self.built.scratch.evaluate(dims),
            )
        )

    def _operand(self, position: int, array: Input) -> list[tuple[np.ndarray, int]]:
        """(field, alignment) of what the kernel gets for it."""
        layout = self.built.layouts.get(position)
        encoding = self.group.func.params[position].type.encoding
        if layout is None and encoding is None:
            return [(array, 64 if position in self.group.weights else 1)]
        fields = {"data": array} if encoding is None else encoded(self.group.func.params[position].type, array).fields
        weight = Weight("w", self.group.func.params[position].type, dict(fields))
        return [(field, 64) for field in packed_fields(weight, layout).values()]


def call_here(function: Any, call: Call) -> list[np.ndarray]:
    """Call a function of this machine's."""
    buffers = [Guarded(array, alignment) for array, alignment in call.buffers]
    scratch = Guarded(np.full(call.scratch, 0xFF, np.uint8), 64)  # NaN as floats, which nothing may use unwritten
    pointers = [ctypes.c_void_p(buffers[position].address) for position in call.pointers]
    sizes = [ctypes.c_int64(size) for size in call.dims]
    cuts = [call.tiles * piece // call.pieces for piece in range(call.pieces + 1)]
    for begin, end in reversed(list(pairwise(cuts))):
        ends = (ctypes.c_int64(begin), ctypes.c_int64(end), ctypes.c_void_p(scratch.address))
        assert function(*pointers, *sizes, *ends) == 0
    assert all(guard.sound for guard in [*buffers, scratch]), "wrote outside"
    return [buffers[position].array.copy() for position in call.results]


def bound_dims(group: Group, inputs: Sequence[Input]) -> dict[str, int]:
    """Values of the dims that are a size of some input."""
    dims = {}
    for param, array in zip(group.func.params, inputs, strict=True):
        for size, extent in zip(param.shape, array.shape, strict=True):
            if str(size) in group.dims:
                dims[str(size)] = extent
    return dims


_MEMORY = """
typedef unsigned long size_t;
void *memset(void *to, int byte, size_t n) { volatile char *t = to; while (n--) *t++ = (char)byte; return to; }
void *memcpy(void *to, const void *from, size_t n) {
  volatile char *t = to; const char *f = from; while (n--) *t++ = *f++; return to; }
void *memmove(void *to, const void *from, size_t n) {
  volatile char *t = to; const char *f = from;
  if (t <= f) while (n--) *t++ = *f++; else while (n--) t[n] = f[n];
  return to; }
"""


@cache
def _memory_object(zig: str) -> bytes:
    with TemporaryDirectory(prefix="nomul-test-") as name:
        (Path(name) / "memory.c").write_text(_MEMORY)
        _zig(["-c", "-O1", "-fno-builtin", "-fno-sanitize=all", "-fPIC", "memory.c", "-o", "memory.o"], zig, Path(name))
        return (Path(name) / "memory.o").read_bytes()


def _zig(flags: list[str], zig: str, folder: Path) -> None:
    command = [sys.executable, "-m", "ziglang", "cc", "-target", zig, *flags]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def link(functions: Mapping[str, Any], target: Target) -> dict[str, Entry]:
    """What calls the functions. The link fails where a symbol is missing: of libc only the three that LLVM may call."""
    if target.arch != levels()[0].arch:
        return Emulator(functions, target).entries
    with TemporaryDirectory(prefix="nomul-test-") as name:
        folder = Path(name)
        (folder / "memory.o").write_bytes(_memory_object(target.zig))
        (folder / "k.o").write_bytes(lower_to_object(functions, target))
        _zig(["-shared", "-nostdlib", "-Wl,-z,defs", "-o", "k.so", "k.o", "memory.o"], target.zig, folder)
        library = ctypes.CDLL(str(folder / "k.so"))
    found = {symbol: getattr(library, symbol) for symbol in functions}
    for function in found.values():
        function.restype = ctypes.c_int32
    return {symbol: partial(call_here, function) for symbol, function in found.items()}


def compile_kernels(kernel: Kernel, groups: Sequence[Group], target: Target) -> list[CompiledKernel]:
    """Many groups in one library, which is much faster than one by one."""
    built = [kernel.build(group, target) for group in groups]
    entries = link({f"k{i}": one.function for i, one in enumerate(built)}, target)
    return [CompiledKernel(g, b, target, entries[f"k{i}"]) for i, (g, b) in enumerate(zip(groups, built, strict=True))]


def reference(group: Group, inputs: Sequence[Input], dims: Mapping[str, int] | None = None) -> list[np.ndarray]:
    """The interpreter's results."""
    module = Module(dict(group.ranges), {}, {"main": group.func})
    values = dict(dims or bound_dims(group, inputs))
    arrays = [
        array if param.type.encoding is None else encoded(param.type, array)
        for param, array in zip(group.func.params, inputs, strict=True)
    ]
    return interpreter._run_func(module, group.func, arrays, values)


def encoded(type: Tensor, array: np.ndarray | EncodedArray) -> EncodedArray:
    """The array in the encoding of a type; one that is encoded already as it is."""
    if isinstance(array, EncodedArray):
        return array
    assert type.encoding is not None
    return EncodedArray(type.encoding, type.encoding.pack(array), array.shape, array.dtype)


def compile_kernel(kernel: Kernel, group: Group, target: Target) -> CompiledKernel:
    """Raises AssertionError with the kernel's reason where it refuses the group."""
    reason = kernel.accepts(group)
    assert reason is None, reason
    return CompiledKernel(group, kernel.build(group, target), target)


def close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Equal for integers and bools; floats within `tolerance` times the largest finite magnitude, infinities alike."""
    assert got.dtype == expected.dtype and got.shape == expected.shape
    if not np.issubdtype(got.dtype, np.floating) and got.dtype.kind in "iub":
        np.testing.assert_array_equal(got, expected)
        return
    a, b = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(b)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    np.testing.assert_array_equal(a[~finite & ~np.isnan(b)], b[~finite & ~np.isnan(b)])
    scale = max(np.abs(b[finite]).max(initial=0.0), 1e-30)
    assert np.abs(a[finite] - b[finite]).max(initial=0.0) <= tolerance * scale, np.abs(a[finite] - b[finite]).max()


def random_array(type: Tensor, dims: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    """Values of moderate size; small non-negative integers."""
    shape = interpreter.type_shape(type, dims)
    if type.dtype.is_float:
        return rng.standard_normal(shape).astype(type.dtype.numpy)
    if type.dtype.is_integer:
        return rng.integers(0, 5, shape).astype(type.dtype.numpy)
    return rng.integers(0, 2, shape).astype(np.bool_)
