"""Compiles kernels and models that are printed as C, and runs them on this machine."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nomul.backends.group import Group
from nomul.backends.portable_c.kernels import kernel_text
from nomul.backends.portable_c.targets import PORTABLE
from nomul.backends.registry import all_kernels
from nomul.ir.types import DType
from nomul.runtime import abi
from tests.kernel_harness import CompiledKernel, call_here

WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror")
GENERIC = "any/f32/generic"


def runtime_folder() -> Path:
    """Where the headers of the runtime are."""
    return Path(str(files("nomul.runtime").joinpath("nomul_rt.h"))).parent


def c_kernels(groups: Sequence[Group], flags: Sequence[str] = ("-O1", "-fsanitize=undefined")) -> list[CompiledKernel]:
    """The generic kernel of each group, compiled without a warning."""
    built = [all_kernels()[GENERIC].build(group, PORTABLE) for group in groups]
    text = [kernel_text(group, one, f"k{i}") for i, (group, one) in enumerate(zip(groups, built, strict=True))]
    with TemporaryDirectory(prefix="nomul-test-") as name:
        source = Path(name) / "kernels.c"
        source.write_text('#include "nomul_kernel.h"\n' + "\n".join(text).replace("NM_HIDDEN ", ""))
        command = [sys.executable, "-m", "ziglang", "cc", *WARNINGS, *flags, "-fsanitize-trap=undefined", "-shared"]
        command += ["-fPIC", f"-I{runtime_folder()}", str(source), "-o", f"{name}/kernels.so", "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:4000]
        library = ctypes.CDLL(f"{name}/kernels.so")
    entries = [getattr(library, f"k{i}") for i in range(len(groups))]
    for entry in entries:
        entry.restype = ctypes.c_int32
    calls = [partial(call_here, entry) for entry in entries]
    return [CompiledKernel(g, b, PORTABLE, call) for g, b, call in zip(groups, built, calls, strict=True)]


_number = itertools.count()


def build_library(folder: Path, *flags: str) -> ctypes.CDLL:
    """The sources of `--emit c` as a library of this machine, without a warning."""
    sources = [str(path) for path in sorted(folder.iterdir()) if path.suffix in (".c", ".S") and path.stem != "main"]
    command = [sys.executable, "-m", "ziglang", "cc", *WARNINGS, "-DNM_NO_THREADS", "-DNM_NO_FILES", *flags]
    library = folder / f"model{next(_number)}.so"  # the system gives a loaded library again for the same name
    command += ["-fvisibility=hidden", "-shared", "-fPIC", *sources, "-o", str(library), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr[:4000]
    return ctypes.CDLL(str(library))


def run_library(
    library: ctypes.CDLL, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], weights: bytes = b""
) -> None:
    """Runs a model with exactly the scratch that it asks for; fills `outputs`. weights: contents of a weights file."""
    library.nm_query.restype = ctypes.POINTER(abi.NmModel)
    model = library.nm_query(abi.ABI).contents
    tensors = [(abi.NmTensor * max(1, len(arrays)))(*map(_tensor, arrays)) for arrays in (inputs, outputs)]
    dims = (ctypes.c_int64 * abi.MAX_DIMS)()
    status = model.bind(tensors[0], dims)
    assert status == abi.OK, abi.describe(model, status)
    size = model.scratch_size(dims, 1)
    scratch, image = _aligned(np.zeros(size, np.uint8)), _aligned(np.frombuffer(weights, np.uint8))
    env = abi.NmEnv(size=ctypes.sizeof(abi.NmEnv), scratch=scratch.ctypes.data, scratch_size=size)
    if weights:
        env.weights, env.weights_size = image.ctypes.data, len(weights)
    status = model.run(ctypes.byref(env), *tensors)
    assert status == abi.OK, abi.describe(model, status)


def _aligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + abi.ALIGNMENT, np.uint8)
    start = -room.ctypes.data % abi.ALIGNMENT
    room[start : start + array.nbytes] = array
    return room[start : start + array.nbytes]


def _tensor(array: np.ndarray) -> abi.NmTensor:
    names = {np.dtype(DType(name).numpy): code for code, name in abi.DTYPES.items()}
    shape = (ctypes.c_int64 * max(1, array.ndim))(*array.shape)
    return abi.NmTensor(array.ctypes.data, shape, array.ndim, names[array.dtype])
