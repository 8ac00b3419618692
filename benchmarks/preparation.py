"""What part of a quantised linear layer is preparation of its rows: tables of sums, sums and copies of rows.

`python benchmarks/preparation.py [--shapes 1536x384,4096x4096] [--m 1,16,64]`: each kernel runs on one block of rows,
once on all its columns and once on half of them; what would be left for none, less an empty call, is the preparation.
Layers that read the same rows could share it. Quantisation is a step of its own and not in these times.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent))
from one_kernel import aligned, aligned_copy, link  # these stand beside this file

from nomul.backends.build import packed_fields
from nomul.backends.group import Group
from nomul.backends.select import Choice, choose
from nomul.backends.target import find_target
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Value, Weight
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import DType, Tensor

LAYERS = (
    ("ternary<group=128, pack=3of4>", 127),
    ("ternary<group=128, pack=3of4>", 42),
    ("bitplane<bits=2, group=128>", 127),
    ("bitplane<bits=2, group=128>", 25),
    ("int4<group=128>", 127),
)
BLOCK = 64  # rows of a tile of look-ups
SECONDS = 0.1  # for each time


def group_of(text: str, levels: int, n: int, k: int, rows: int) -> Group:
    """A product of quantised rows [M, k], M in [1, rows], with weights [n, k]."""
    weights = Tensor(DType.F32, (Dim.of(n), Dim.of(k)), parse_encoding(text))
    types = (Tensor.of("i8", "M", k), Tensor.of("f32", "M"), weights)
    func = Func("layer", [Value(f"x{number}", type) for number, type in enumerate(types)])
    func.returns = [Builder(func).nn.quantised_linear(*func.params, levels=levels)]
    return Group(func, frozenset({2}), {"M": (1, rows)})


def least(call: Callable[[], object]) -> float:
    """Seconds of the quickest call."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(choice: Choice, levels: int, n: int, k: int, rows: int) -> tuple[float, float]:
    """Seconds of a layer, and of its preparation."""
    built, type = choice.built[0], choice.group.func.params[2].type
    assert type.encoding is not None
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((n, k)).astype(np.float32)
    fields = packed_fields(Weight("w", type, dict(type.encoding.pack(matrix))), built.layouts.get(2))
    q = aligned_copy(generator.integers(-levels, levels, (rows, k), np.int8, endpoint=True))
    kept = [q, np.ones(rows, np.float32), *(aligned_copy(field) for field in fields.values()), aligned(4 * rows * n)]
    scratch, function = aligned(built.scratch.evaluate({"M": rows})), link(choice, choice.levels[0])
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in kept]

    def run(tiles: int) -> float:
        sizes = (ctypes.c_int64(rows), ctypes.c_int64(0), ctypes.c_int64(tiles), ctypes.c_void_p(scratch.ctypes.data))
        return least(lambda: function(*pointers, *sizes))

    tiles = built.tiles.evaluate({"M": rows})
    whole, half, empty = run(tiles), run(tiles // 2), run(0)
    return whole - empty, max(0.0, half - (whole - half) / (tiles - tiles // 2) * (tiles // 2) - empty)


def main(command: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="384x384,1536x384,4096x4096", help="OUTPUTSxINPUTS, by commas")
    parser.add_argument("--m", default="1,16,64", help=f"numbers of rows, at most {BLOCK}: one block")
    arguments = parser.parse_args(command)
    print(
        "| layer | rows | encoding | levels | kernel | us | preparation us | share |\n|---|---|---|---|---|---|---|---|"
    )
    for shape in arguments.shapes.split(","):
        n, k = map(int, shape.split("x"))
        for text, levels in LAYERS:
            choice = choose(group_of(text, levels, n, k, 512), find_target("host")[:1])
            for rows in map(int, arguments.m.split(",")):
                whole, part = measure(choice, levels, n, k, min(rows, BLOCK))
                times = f"{whole * 1e6:.1f} | {part * 1e6:.1f} | {part / whole:.0%}"
                print(f"| {shape} | {rows} | {text} | {levels} | {choice.label.rpartition('/')[2]} | {times} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
