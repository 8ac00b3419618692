"""Runs kernels alone under qemu-user, many in one program: what `kernel_harness` does for this machine, for others.

kernels = EmulatedKernels(kernel, groups, find_target("rpi5")[0], folder)
results = kernels([Call(number, inputs), ...], cpu="cortex-a76")
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from emulate import qemu
from kernel_harness import bound_dims

from nomul.backends.build import packed_fields
from nomul.backends.group import Group
from nomul.backends.lower import lower_to_object
from nomul.backends.registry import Built, Kernel
from nomul.backends.target import Target
from nomul.backends.zig import compile_source, zig
from nomul.ir import interpreter
from nomul.ir.graph import Weight

MAIN = Path(__file__).with_name("emulate_kernels.c")


@dataclass(frozen=True)
class Call:
    """kernel: its number.  inputs: in the order of the group's parameters.  pieces: ranges of tiles, last one first."""

    kernel: int
    inputs: Sequence[np.ndarray]
    dims: Mapping[str, int] = field(default_factory=dict)
    pieces: int = 1


class EmulatedKernels:
    """Kernels of one target in one static program. Skips the test where qemu is missing."""

    def __init__(self, kernel: Kernel, groups: Sequence[Group], target: Target, folder: Path) -> None:
        qemu(target.arch)
        self.groups, self.arch, self.path = groups, target.arch, folder / "kernels"
        self.built = [kernel.build(group, target) for group in groups]
        functions = {f"k{number}": built.function for number, built in enumerate(self.built)}
        triple = target.musl or target.zig
        (folder / "k.o").write_bytes(lower_to_object(functions, target))
        (folder / "main.c").write_bytes(MAIN.read_bytes())
        (folder / "table.c").write_text(_table(groups, self.built))
        objects = [compile_source(name, triple, ["-O1", "-D_DEFAULT_SOURCE"], folder) for name in ("main.c", "table.c")]
        zig(["cc", "-target", triple, "-static", "-s", "k.o", *objects, "-o", self.path.name], folder)

    def __call__(self, calls: Sequence[Call], cpu: str | None = None) -> list[list[np.ndarray]]:
        """The results of each call. Raises AssertionError where a kernel touches what is not its own."""
        with TemporaryDirectory(prefix="nomul-") as name:
            request, answer = Path(name, "request"), Path(name, "answer")
            request.write_bytes(struct.pack("<I", len(calls)) + b"".join(map(self._encode, calls)))
            command = [qemu(self.arch), *(["-cpu", cpu] if cpu else []), str(self.path), str(request), str(answer)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode} {done.stderr}"
            return self._decode(calls, answer.read_bytes())

    def _encode(self, call: Call) -> bytes:
        group, built = self.groups[call.kernel], self.built[call.kernel]
        dims = _dims(group, call)
        operands = [part for i, array in enumerate(call.inputs) for part in _operand(group, built, i, array)]
        results = [np.full(shape, 77, dtype) for shape, dtype in _results(group, dims)]
        tiles = built.tiles.evaluate(dims)
        cuts = [tiles * piece // call.pieces for piece in range(call.pieces + 1)]
        sizes = [dims[name] for name in group.dims]
        counts = (len(operands) + len(results), len(results), len(sizes), len(cuts))
        head = struct.pack("<5IQ", call.kernel, *counts, built.scratch.evaluate(dims))
        numbers = struct.pack(f"<{len(sizes) + len(cuts)}q", *sizes, *cuts)
        buffers = [_buffer(array, 64 if aligned else array.itemsize) for array, aligned in operands]
        return head + numbers + b"".join([*buffers, *(_buffer(array, array.itemsize) for array in results)])

    def _decode(self, calls: Sequence[Call], answer: bytes) -> list[list[np.ndarray]]:
        decoded, offset = [], 0
        for call in calls:
            results = []
            for shape, dtype in _results(self.groups[call.kernel], _dims(self.groups[call.kernel], call)):
                count = int(np.prod(shape, dtype=np.int64))
                results.append(np.frombuffer(answer, dtype, count, offset).reshape(shape))
                offset += count * dtype.itemsize
            decoded.append(results)
        assert offset == len(answer)
        return decoded


def _table(groups: Sequence[Group], built: Sequence[Built]) -> str:
    """C that calls each kernel with the right number of arguments."""
    lines = ["#include <stdint.h>"]
    for number, (group, made) in enumerate(zip(groups, built, strict=True)):
        pointers = len(made.function.params) - len(group.dims) - 3
        types = ", ".join(["void *"] * pointers + ["int64_t"] * (len(group.dims) + 2) + ["void *"])
        places = [f"p[{i}]" for i in range(pointers)] + [f"d[{i}]" for i in range(len(group.dims))]
        lines.append(f"int32_t k{number}({types});")
        lines.append(f"static int32_t call{number}(void **p, const int64_t *d, int64_t b, int64_t e, void *s) {{")
        lines.append(f"  (void)d;\n  return k{number}({', '.join([*places, 'b', 'e', 's'])});\n}}")
    names = ", ".join(f"call{number}" for number in range(len(groups)))
    lines.append("typedef int32_t (*call)(void **, const int64_t *, int64_t, int64_t, void *);")
    lines.append('__attribute__((visibility("default"))) extern const call calls[];')
    return "\n".join([*lines, f"const call calls[] = {{{names}}};\n"])


def _dims(group: Group, call: Call) -> dict[str, int]:
    return dict(call.dims) or bound_dims(group, call.inputs)


def _results(group: Group, dims: Mapping[str, int]) -> list[tuple[tuple[int, ...], np.dtype]]:
    returns = group.func.returns
    return [(interpreter.type_shape(value.type, dims), np.dtype(value.dtype.numpy)) for value in returns]


def _operand(group: Group, built: Built, position: int, array: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    """(array, whether it is aligned to 64 bytes) for each pointer of a parameter."""
    layout, type = built.layouts.get(position), group.func.params[position].type
    if layout is None and type.encoding is None:
        return [(array, position in group.weights)]
    weight = Weight("w", type, type.encoding.pack(array) if type.encoding else {"data": array})
    return [(np.asarray(part), True) for part in packed_fields(weight, layout).values()]


def _buffer(array: np.ndarray, alignment: int) -> bytes:
    return struct.pack("<IQ", alignment, array.nbytes) + np.ascontiguousarray(array).tobytes()
