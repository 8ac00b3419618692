"""What a kernel executes on an ARM core: runs it once under qemu-user, which logs every block of instructions.

The program is static, so only `qemu-aarch64` (Debian: qemu-user) is needed beside this project's Python packages.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nomul.backends.build import packed_fields
from nomul.backends.group import Group
from nomul.backends.lower import lower_to_object
from nomul.backends.registry import Built
from nomul.backends.target import Target
from nomul.backends.zig import compile_source, zig
from nomul.ir.graph import Weight

_TRIPLE = "aarch64-linux-musl"
_MAIN = """#include <stdint.h>
#include <stdlib.h>
extern int32_t kernel({types});
static void *buffer(size_t bytes) {{
  float *made = aligned_alloc(64, (bytes + 127) / 64 * 64);
  if (!made) abort();
  for (size_t i = 0; i < bytes / 4; i++) made[i] = (float)(i % 7) - 3;
  return made;
}}
int main(void) {{ return kernel({buffers}, 0, {tiles}, buffer({scratch})); }}
"""
# A line of the log for each instruction that is translated, and for each block that is run.
_INSTRUCTION = re.compile(r"^0x([0-9a-f]+):\s+[0-9a-f]{8}\s+(.+)$")
_RUN = re.compile(r"^Trace 0: \S+ \[[0-9a-f]+/([0-9a-f]+)/")


@dataclass(frozen=True)
class Block:
    """Instructions that follow each other, as assembly text, and how often they ran."""

    instructions: tuple[str, ...]
    count: int


def trace(group: Group, built: Built, target: Target) -> list[Block]:
    """The blocks that one call of the kernel runs, over all tiles. All sizes of the group are known."""
    qemu = shutil.which("qemu-aarch64")
    if qemu is None:
        raise SystemExit("qemu-aarch64 is not installed (Debian: apt-get install qemu-user)")
    # macOS objects do not run under qemu-user: the same core's code, for Linux
    target = replace(target, triple="aarch64-unknown-linux-gnu", zig=_TRIPLE)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.o").write_bytes(lower_to_object({"kernel": built.function}, target))
        (folder / "main.c").write_text(_main(group, built))
        main = compile_source("main.c", _TRIPLE, ["-O1", "-Wno-builtin-declaration-mismatch"], folder)
        zig(["cc", "-target", _TRIPLE, "-static", main, "kernel.o", "-o", "program"], folder)
        first, last = _symbol(folder / "program", "kernel")
        log = ["-d", "nochain,exec,in_asm", "-dfilter", f"{first:#x}..{last - 1:#x}", "-D", "log"]
        subprocess.run([qemu, "-cpu", "max", *log, "./program"], cwd=folder, check=True)
        return _blocks((folder / "log").read_text())


def _main(group: Group, built: Built) -> str:
    sizes = [size for position in range(len(group.func.params)) for size in _bytes(group, built, position)]
    sizes += [int(value.type.numel) * 4 for value in group.func.returns]
    types = ", ".join(["void *"] * len(sizes) + ["int64_t", "int64_t", "void *"])
    buffers = ", ".join(f"buffer({size})" for size in sizes)
    return _MAIN.format(types=types, buffers=buffers, tiles=int(built.tiles), scratch=int(built.scratch))


def _bytes(group: Group, built: Built, position: int) -> list[int]:
    """Of the buffers that the kernel takes for a parameter."""
    param = group.func.params[position]
    array = np.zeros([int(size) for size in param.shape], param.dtype.numpy)
    encoding = param.type.encoding
    weight = Weight("w", param.type, encoding.pack(array) if encoding else {"data": array})
    return [field.nbytes for field in packed_fields(weight, built.layouts.get(position)).values()]


def _symbol(program: Path, name: str) -> tuple[int, int]:
    """First address of a function, and the one behind it."""
    file = program.read_bytes()
    (start,) = struct.unpack_from("<Q", file, 40)
    size, count = struct.unpack_from("<HH", file, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", file, start + size * i) for i in range(count)]
    symbols = next(header for header in headers if header[1] == 2)  # SHT_SYMTAB
    names = headers[symbols[6]][4]
    for offset in range(symbols[4], symbols[4] + symbols[5], 24):
        label, _, _, _, address, length = struct.unpack_from("<IBBHQQ", file, offset)
        if file[names + label : file.index(b"\0", names + label)] == name.encode():
            return address, address + length
    raise SystemExit(f"{name} is not in the program")


def _blocks(log: str) -> list[Block]:
    code: dict[int, tuple[str, ...]] = {}
    counts: Counter[int] = Counter()
    listed: list[str] = []
    first = 0
    for line in log.splitlines():
        if found := _INSTRUCTION.match(line):
            if not listed:
                first = int(found[1], 16)
            listed.append(found[2])
            code[first] = tuple(listed)
        else:
            listed = []
        if found := _RUN.match(line):
            counts[int(found[1], 16)] += 1
    return [Block(code[address], count) for address, count in counts.items()]
