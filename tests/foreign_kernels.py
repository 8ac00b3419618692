"""Runs kernels for other machines under qemu-user, in a static program that serves one call after another.

`tests/kernel_harness.py` uses it for targets that this machine does not run.
"""

from __future__ import annotations

import atexit
import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tvm import ir

from nomul.backends.lower import lower_to_object
from nomul.backends.target import Target
from nomul.backends.zig import compile_source, zig, zig_target
from tests.elf import sections
from tests.emulate import qemu

MAIN = Path(__file__).with_name("foreign_kernels.c")
# The least CPU that has a level, and so lacks the next one's features.
_A76 = dict.fromkeys(("dotprod", "neon_dotprod", "cortex_a76"), "cortex-a76")
CPUS = {"aarch64": {"neon": "cortex-a53"} | _A76, "arm": {"neon": "cortex-a7"}, "riscv64": {"rv64gc": "sifive-u54"}}


@dataclass(frozen=True)
class Call:
    """One call. buffers: (array, alignment).  pointers, results: positions in them; the order that the kernel takes."""

    buffers: Sequence[tuple[np.ndarray, int]]
    pointers: Sequence[int]
    dims: Sequence[int]
    results: Sequence[int]
    tiles: int
    pieces: int
    scratch: int


class Emulator:
    """A running program that has several kernels."""

    def __init__(self, functions: Mapping[str, Any], target: Target) -> None:
        emulator = qemu(target.arch)
        self._folder = TemporaryDirectory(prefix="nomul-test-")
        self._cpu = CPUS.get(target.arch, {}).get(target.level, "max")
        _link(functions, target, Path(self._folder.name))
        command = [emulator, "-cpu", self._cpu, str(Path(self._folder.name, "program"))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        atexit.register(self._end)
        self.entries = {symbol: Entry(self, number) for number, symbol in enumerate(functions)}

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def call(self, number: int, call: Call) -> list[np.ndarray]:
        """The results' buffers after the call. Raises AssertionError where the kernel failed or wrote outside."""
        sizes = (call.buffers, call.pointers, call.dims, call.results)
        head = (number, *map(len, sizes), call.tiles, call.pieces, call.scratch)
        shapes = [word for array, alignment in call.buffers for word in (array.nbytes, alignment)]
        words = [*head, *shapes, *call.pointers, *call.dims, *call.results]
        data = b"".join(np.ascontiguousarray(array).tobytes() for array, _ in call.buffers)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(struct.pack(f"<{len(words)}q", *words) + data)
        self._process.stdin.flush()
        status = self._process.stdout.read(8)
        assert len(status) == 8, f"the kernel stopped its program on {self._cpu}: status {self._process.wait()}"
        found = []
        for position in call.results:
            array = call.buffers[position][0]
            found.append(np.frombuffer(self._process.stdout.read(array.nbytes), array.dtype).reshape(array.shape))
        assert status == bytes(8), "wrote outside"
        return found


@dataclass(frozen=True)
class Entry:
    """One kernel of a program."""

    emulator: Emulator
    number: int

    def __call__(self, call: Call) -> list[np.ndarray]:
        return self.emulator.call(self.number, call)


def _link(functions: Mapping[str, Any], target: Target, folder: Path) -> None:
    object_file = lower_to_object(functions, target)
    if target.arch != "arm":  # there, a runtime library divides
        missing = _undefined(object_file) - {"", "memset", "memcpy", "memmove"}
        assert not missing, f"kernels for {target.name} need {', '.join(sorted(missing))}"
    triple = target.musl or target.zig
    (folder / "main.o").write_bytes(_main_object(triple))
    (folder / "kernels.o").write_bytes(object_file)
    (folder / "table.c").write_text(_table(functions))
    table = compile_source("table.c", triple, ["-O1"], folder)
    zig(["cc", *zig_target(triple), "-static", "-s", "main.o", table, "kernels.o", "-o", "program"], folder)


def _undefined(object_file: bytes) -> set[str]:
    """Symbols that a 64-bit object takes from others."""
    by_name = {section.name: section.data for section in sections(object_file)}
    names, table = by_name[".strtab"], by_name[".symtab"]
    symbols = [struct.unpack_from("<IBBH", table, offset) for offset in range(0, len(table), 24)]
    return {names[name : names.index(b"\0", name)].decode() for name, _, _, section in symbols if section == 0}


def _table(functions: Mapping[str, Any]) -> str:
    """C: every kernel behind one signature."""
    lines = ["#include <stdint.h>"]
    for symbol, function in functions.items():
        operands = function.params[:-3]
        pointers = sum(isinstance(param.ty, ir.PointerType) for param in operands)
        types = ", ".join(["void *"] * pointers + ["int64_t"] * (len(operands) - pointers + 2) + ["void *"])
        given = [f"p[{i}]" for i in range(pointers)] + [f"d[{i}]" for i in range(len(operands) - pointers)]
        lines += [
            f"extern int32_t {symbol}({types});",
            f"static int32_t call_{symbol}(void *const *p, const int64_t *d, int64_t b, int64_t e, void *s)",
            f"{{ (void)p; (void)d; return {symbol}({', '.join([*given, 'b', 'e', 's'])}); }}",
        ]
    names = ", ".join(f"call_{symbol}" for symbol in functions)
    lines += [
        "typedef int32_t (*kernel_function)(void *const *, const int64_t *, int64_t, int64_t, void *);",
        f'__attribute__((visibility("default"))) const kernel_function kernels[] = {{{names}}};',
    ]
    return "\n".join(lines) + "\n"


@cache
def _main_object(triple: str) -> bytes:
    with TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name)
        (folder / "main.c").write_bytes(MAIN.read_bytes())
        return (folder / compile_source("main.c", triple, ["-O1"], folder, keep=True)).read_bytes()
