"""Times plain kernels (element-wise, transposes, joins, gathers, reductions, images) on one thread beside a copy of as
many bytes in the same run: `python benchmarks/plain.py [--level v4] [--json FILE]`.

Bytes are those of all operands and results, each once; a gather counts the rows that it reads.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path

import numpy as np
from one_kernel import aligned, link

from nomul.backends.group import Group
from nomul.backends.select import Choice, choose
from nomul.backends.target import Target, find_target
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Value
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import DType, Tensor
from nomul.timing import Job, measure

SECONDS = 0.5  # for each case, the copy included
RNG = np.random.default_rng(1)


@dataclass(frozen=True)
class Case:
    """build: from a builder and the parameters to the result.  shapes: of f32 parameters.  rows: i64 indices.

    encoding: of the first parameter, a weight."""

    name: str
    build: Callable[..., Value]
    shapes: tuple[tuple[int, ...], ...]
    rows: int = 0
    encoding: str = ""

    @property
    def types(self) -> list[Tensor]:
        types = [Tensor.of("f32", *shape) for shape in self.shapes]
        if self.encoding:
            types[0] = Tensor(DType.F32, types[0].shape, parse_encoding(self.encoding))
        return [*types, *([Tensor.of("i64", self.rows)] if self.rows else [])]


@dataclass(frozen=True)
class Row:
    """gbs: bytes read and written, 1e9 per second.  of_copy: our rate by that of the copy."""

    case: str
    kernel: str
    us: float
    gbs: float
    of_copy: float


IMAGE, LAST = (1, 64, 48, 320), (1, 48, 320, 64)
CASES = [
    Case("gelu 128x1536", lambda b, x: b.ew.gelu(x), ((128, 1536),)),
    Case("add 1x64x48x320", lambda b, x, y: b.ew.add(x, y), (IMAGE, IMAGE)),
    Case("mul by channel 1x48x320x64", lambda b, x, y: b.ew.mul(x, y), (LAST, (64,))),
    Case("nchw to nhwc 1x64x48x320", lambda b, x: b.view.transpose(x, perm=(0, 2, 3, 1)), (IMAGE,)),
    Case("nhwc to nchw 1x48x320x64", lambda b, x: b.view.transpose(x, perm=(0, 3, 1, 2)), (LAST,)),
    Case("nchw to nhwc 1x3x480x320", lambda b, x: b.view.transpose(x, perm=(0, 2, 3, 1)), ((1, 3, 480, 320),)),
    Case("heads 1x512x12x32", lambda b, x: b.view.transpose(x, perm=(0, 2, 1, 3)), ((1, 512, 12, 32),)),
    Case("concat channels 2 x 24x320x48", lambda b, x, y: b.view.concat(x, y, axis=2), ((24, 320, 48),) * 2),
    Case("embedding 128 rows of 384", lambda b, x, i: b.index.gather(x, i), ((30522, 384),), rows=128),
    Case("embedding, int8", lambda b, x, i: b.index.gather(x, i), ((30522, 384),), rows=128, encoding="int8"),
    Case("embedding, int4", lambda b, x, i: b.index.gather(x, i), ((30522, 384),), rows=128, encoding="int4"),
    Case("mean over pixels 48x320x64", lambda b, x: b.reduce.mean(x, axes=(0, 1)), ((48, 320, 64),)),
    Case("mean over rows 64x15360", lambda b, x: b.reduce.mean(x, axes=(1,)), ((64, 15360),)),
    Case("argmax 40x6625", lambda b, x: b.reduce.argmax(x, axis=1), ((40, 6625),)),
    Case(
        "max pool 3x3 /2 112x112x64",
        lambda b, x: b.nn.max_pool2d(x, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), layout="nhwc"),
        ((1, 112, 112, 64),),
    ),
    Case(
        "average pool 3x2 3x320x64",
        lambda b, x: b.nn.avg_pool2d(x, kernel=(3, 2), strides=(3, 2), layout="nhwc"),
        ((1, 3, 320, 64),),
    ),
    Case("nearest x2 48x160x64", lambda b, x: b.nn.resize2d(x, size=(96, 320), layout="nhwc"), ((1, 48, 160, 64),)),
    Case(
        "linear x2 48x160x64",
        lambda b, x: b.nn.resize2d(x, size=(96, 320), mode="linear", layout="nhwc"),
        ((1, 48, 160, 64),),
    ),
]


def make_group(case: Case) -> Group:
    func = Func("bench", [Value(f"x{number}", type) for number, type in enumerate(case.types)])
    func.returns = [case.build(Builder(func), *func.params)]
    return Group(func, frozenset({0} if case.encoding else ()))


def operand(type: Tensor, limit: int) -> list[np.ndarray]:
    """The memory of a parameter: of each field where it is encoded."""
    count = int(type.numel)
    drawn = RNG.integers(0, limit, count) if type.dtype.is_integer else RNG.standard_normal(count)
    arrays = [drawn.astype(type.dtype.numpy)]
    if type.encoding is not None:
        shape = tuple(int(size) for size in type.shape)
        arrays = list(type.encoding.pack(arrays[0].reshape(shape)).values())
    memories = [aligned(array.nbytes) for array in arrays]
    for memory, array in zip(memories, arrays, strict=True):
        memory.view(array.dtype)[...] = array.reshape(-1)
    return memories


def ours(group: Group, choice: Choice, target: Target) -> Job:
    """Runs all tiles of the kernel."""
    built, entry = choice.built[0], link(choice, target)
    limit = int(group.func.params[0].shape[0])
    memories = [memory for param in group.func.params for memory in operand(param.type, limit)]
    memories += [aligned(int(type.bytes)) for type in group.results]
    scratch = aligned(int(built.scratch) + 64)
    pointers = [ctypes.c_void_p(memory.ctypes.data) for memory in (*memories, scratch)]
    arguments = (*pointers[:-1], ctypes.c_int64(0), ctypes.c_int64(int(built.tiles)), pointers[-1])
    return lambda: (memories, scratch, entry(*arguments))


def copy(count: int) -> Job:
    """Reads and writes as many bytes, half each."""
    source, goal = aligned(count // 2), aligned(count // 2)
    return lambda: ctypes.memmove(goal.ctypes.data, source.ctypes.data, count // 2)


def moved_bytes(case: Case, group: Group) -> int:
    first, *others = (param.type for param in group.func.params)
    shape = tuple(int(size) for size in first.shape)
    bits = first.encoding.bits_per_weight(shape) if first.encoding else 32
    read = prod((case.rows, *shape[1:]) if case.rows else shape) * bits / 8
    return int(read) + sum(int(type.bytes) for type in (*others, *group.results))


def run_case(case: Case, target: Target) -> Row:
    group = make_group(case)
    choice, count = choose(group, (target,)), moved_bytes(case, group)
    times = measure({"ours": ours(group, choice, target), "copy": copy(count)}, SECONDS)
    low = times["ours"].low
    return Row(case.name, choice.label, low * 1e3, count / low / 1e6, times["copy"].low / low)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", help="instruction-set level, as v3; the best one of this machine if left out")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    levels = {target.level: target for target in find_target("host")}
    target = levels[arguments.level] if arguments.level else next(iter(levels.values()))
    rows = [run_case(case, target) for case in CASES]
    for row in rows:
        print(f"{row.case:32} {row.us:8.1f} us {row.gbs:6.1f} GB/s {row.of_copy:5.0%} of a copy  {row.kernel}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"level": target.level, "rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
