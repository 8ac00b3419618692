"""Runs the C compiler and archiver of the `ziglang` package: the only C toolchain that users need to have."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

from nomul.ir.errors import NomulError

C_FLAGS = (
    *("-std=c11", "-Wall", "-Wextra", "-g0", "-fPIC"),
    *("-fvisibility=hidden", "-ffunction-sections", "-fno-sanitize=all"),
    *("-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=0"),  # on macOS it calls more of libc than we want to need
)
RUNTIME_SOURCES = ("nomul.c", "nomul_cpu.c", "nomul_math.c", "nomul_pool.c", "nomul_text.c", "nomul_weights.c")
RUNTIME_HEADERS = ("nomul.h", "nomul_rt.h")


def zig(arguments: Sequence[str], folder: Path, *, keep: bool = False) -> None:
    """Runs `zig ARGUMENTS` in `folder`. keep: let zig cache the result, which is right for small files that recur.

    Raises NomulError NM510 where it fails."""
    # Zig caches linked files too: in its default cache every artifact would leave a copy of its weights behind.
    environment = os.environ if keep else {**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache")}
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        message = f"`zig {arguments[0]}` failed with status {done.returncode}\n" + "\n".join(lines[-20:])
        raise NomulError("NM510", message, help="is the disk full, or `ziglang` not installed?")


def is_android(triple: str) -> bool:
    """Whether this triple of zig's is one of Android."""
    return "-android" in triple


def zig_target(triple: str) -> list[str]:
    """The flags that choose what zig compiles and links for.

    Zig has no headers of Android's libc. Musl's do for what the runtime uses: where the kernel does not set types and
    constants, the opaque types of pthread.h are as large in both. For 32-bit ARM it would use NEON unasked, in code too
    that looks whether the CPU has it."""
    if triple.startswith("arm-"):
        return ["-target", triple, "-mcpu=baseline-neon"]
    return ["-target", "aarch64-linux-musl" if is_android(triple) else triple]


def write_runtime(folder: Path, names: Sequence[str]) -> None:
    """Copies files of the C runtime into `folder`."""
    for name in names:
        (folder / name).write_bytes(files("nomul.runtime").joinpath(name).read_bytes())


def compile_source(source: str, triple: str, flags: Sequence[str], folder: Path, *, keep: bool = False) -> str:
    """Compiles one C or assembly file in `folder`; returns the name of the object file beside it."""
    produced = source.partition(".")[0] + ".o"
    zig(["cc", *zig_target(triple), *C_FLAGS, *flags, "-c", source, "-o", produced], folder, keep=keep)
    return produced


@cache
def runtime_objects(triple: str, flags: tuple[str, ...]) -> dict[str, bytes]:
    """The compiled runtime: object file name -> bytes. Compiled once per process, triple and flags."""
    with TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        write_runtime(folder, RUNTIME_SOURCES + RUNTIME_HEADERS)
        objects = [compile_source(source, triple, flags, folder, keep=True) for source in RUNTIME_SOURCES]
        return {name: (folder / name).read_bytes() for name in objects}
