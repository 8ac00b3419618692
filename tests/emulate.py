"""Runs models that were compiled for other machines under qemu-user, on CPUs that have or lack a feature.

`emulated(module, "rpi5")` gives a program, `program(*arrays, cpu="cortex-a72")` its results. It is linked statically
with musl, so that nothing but qemu is needed; `opened` takes a library as it is, and needs the board's libc.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from nomul.backends.link import build_objects
from nomul.backends.plan import Plan
from nomul.backends.target import find_targets
from nomul.backends.zig import compile_source, zig, zig_target
from nomul.ir.graph import Module
from nomul.options import Options
from nomul.pipeline import lower_to_plan
from nomul.runtime import abi
from nomul.runtime.tensors import numpy_dtype

MAIN = Path(__file__).with_name("emulate_main.c")
MACHO_LOADER = Path(__file__).with_name("macho_load.c")
RUNTIME = Path(abi.__file__).parent
SYSROOTS = {
    "aarch64": Path("/usr/aarch64-linux-gnu"),
    "arm": Path("/usr/arm-linux-gnueabihf"),
    "riscv64": Path("/usr/riscv64-linux-gnu"),
}
_CODES = {np.dtype(numpy_dtype(name)).str: code for code, name in abi.DTYPES.items() if name != "bf16"}


class Fault(Exception):
    """The model refused to run. code: NM_CODE of the status; the text is what it describes, or the missing feature."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def qemu(arch: str) -> str:
    """The emulator's program; skips the test where it is not installed."""
    found = shutil.which(f"qemu-{arch}")
    if found is None:
        pytest.skip(f"qemu-{arch} is not installed (Debian: qemu-user)")
    return found


def sysroot(arch: str) -> Path:
    """Where the libc of a board stands; skips the test where none is installed."""
    if not (SYSROOTS[arch] / "lib").is_dir():
        pytest.skip(f"there is no libc in {SYSROOTS[arch]} (Debian: libc6-arm64-cross and the like)")
    return SYSROOTS[arch]


@dataclass(frozen=True)
class Program:
    """A model that can be run in an emulator. levels: names, best first.

    path: of the program.  library: what it opens.  root: where it finds the board's libc, if it is not static.
    libraries: a folder with more shared libraries."""

    path: Path
    arch: str
    levels: tuple[str, ...]
    dtypes: tuple[np.dtype, ...]
    library: Path | None = None
    root: Path | None = None
    libraries: Path | None = None

    def __call__(
        self, *inputs: np.ndarray, cpu: str | None = None, level: str | None = None, threads: int = 1
    ) -> tuple[np.ndarray, ...]:
        """Results. cpu: qemu's `-cpu`; level: None for the best one of the CPU. Raises Fault, AssertionError."""
        return self._decode(self._run(inputs, cpu, level, threads))

    def best_level(self, *inputs: np.ndarray, cpu: str) -> str:
        """The level that a CPU runs."""
        (number,) = struct.unpack_from("<I", self._run(inputs, cpu, None, 1), 4)
        return self.levels[number - 1]

    def _run(self, inputs: Sequence[np.ndarray], cpu: str | None, level: str | None, threads: int) -> bytes:
        number = self.levels.index(level) + 1 if level else 0
        with TemporaryDirectory(prefix="nomul-") as name:
            request, answer = Path(name, "request"), Path(name, "answer")
            request.write_bytes(struct.pack("<II", number, threads) + b"".join(map(_encode, inputs)))
            emulator = [qemu(self.arch), *(["-cpu", cpu] if cpu else [])]
            emulator += ["-L", str(self.root)] if self.root else []
            emulator += ["-E", f"LD_LIBRARY_PATH={self.libraries}"] if self.libraries else []
            command = [*emulator, str(self.path), str(request), str(answer), str(self.library or "-")]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode} {done.stderr}"
            return answer.read_bytes()

    def _decode(self, answer: bytes) -> tuple[np.ndarray, ...]:
        (status,) = struct.unpack_from("<i", answer)
        if status:
            raise Fault(status & 0xFF, answer[8:].decode())
        found, offset = [], 8
        for dtype in self.dtypes:
            (rank,) = struct.unpack_from("<i", answer, offset)
            shape = struct.unpack_from(f"<{rank}q", answer, offset + 4)
            count, start = int(np.prod(shape, dtype=np.int64)), offset + 4 + 8 * rank
            found.append(np.frombuffer(answer, dtype, count, start).reshape(shape))
            offset = start + count * dtype.itemsize
        return tuple(found)


def emulated(model: Module | Plan, target: str | Sequence[str], folder: Path) -> Program:
    """A static program, written to `folder`, with the model compiled for one or several targets. Skips without qemu."""
    targets = (target,) if isinstance(target, str) else tuple(target)
    found = find_targets(targets)[0]
    qemu(found.arch)
    plan = model if isinstance(model, Plan) else lower_to_plan(model, Options(targets=targets)).plan
    triple = found.musl or found.zig
    with build_objects(plan, triple=triple, weights="embedded") as build:
        (build.folder / "main.o").write_bytes(_main_object(triple))
        flags = ["-static", "-s", "-Wl,--gc-sections"]
        zig(["cc", *zig_target(triple), *flags, "main.o", *build.objects, "-o", "program"], build.folder)
        shutil.move(build.folder / "program", folder / "program")
    return _program(folder / "program", found.arch, plan)


def opened(library: Path, plan: Plan, arch: str, folder: Path, libraries: Path | None = None) -> Program:
    """A program in `folder` that opens the shared library as one on the board would. Skips without qemu and libc.

    libraries: a folder with more of the board's libraries."""
    qemu(arch)
    root = sysroot(arch)
    triple = find_targets([f"{arch}-linux"])[0].zig
    (folder / "main.o").write_bytes(_main_object(triple, "-DSHARED"))
    zig(["cc", "-target", triple, "main.o", "-ldl", "-o", "program"], folder)
    program = _program(folder / "program", arch, plan)
    return replace(program, library=library, root=root, libraries=libraries)


def _program(path: Path, arch: str, plan: Plan) -> Program:
    dtypes = tuple(np.dtype(numpy_dtype(port.dtype.value)) for port in plan.outputs)
    return Program(path, arch, tuple(level.name for level in plan.levels), dtypes)


def opened_for_macos(library: Path, plan: Plan, folder: Path) -> Program:
    """A Linux program in `folder` that loads a library for macOS by itself (macho_load.c). Skips without qemu.

    The CPU that such a library sees is an M1, or an M2 with NM_APPLE=2 in the environment."""
    qemu("aarch64")
    triple = "aarch64-linux-musl"
    (folder / "main.o").write_bytes(_main_object(triple, "-DMACHO"))
    (folder / "load.o").write_bytes(_object(MACHO_LOADER, triple))
    zig(["cc", "-target", triple, "-static", "main.o", "load.o", "-o", "program"], folder)
    return replace(_program(folder / "program", "aarch64", plan), library=library)


def _main_object(triple: str, *flags: str) -> bytes:
    return _object(MAIN, triple, *flags)


@cache
def _object(source: Path, triple: str, *flags: str) -> bytes:
    with TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        (folder / source.name).write_bytes(source.read_bytes())
        (folder / "nomul.h").write_bytes((RUNTIME / "nomul.h").read_bytes())
        every = ["-O1", "-D_POSIX_C_SOURCE=200809L", *flags]
        return (folder / compile_source(source.name, triple, every, folder, keep=True)).read_bytes()


def _encode(array: np.ndarray) -> bytes:
    head = struct.pack(f"<ii{array.ndim}q", _CODES[array.dtype.str], array.ndim, *array.shape)
    return head + np.ascontiguousarray(array).tobytes()
