"""Estimates what kernels cost on ARM cores, without one: `python benchmarks/arm.py [--json FILE] [--docs]`.

Instructions are counted by running each kernel under qemu-user. Cycles are an ESTIMATE: each block of instructions that
ran is given to LLVM's model of the core (`llvm-mca`, of a loop over that block, all data in the first-level cache), and
the cycles are added up. Nothing here was measured on such a core.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from arm_trace import Block, trace
from results import markdown_table, replace_section

from nomul.backends.group import Group
from nomul.backends.select import choose
from nomul.backends.target import find_target
from nomul.console import table
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Value
from nomul.ir.types import Tensor

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
START, END = "<!-- results: benchmarks/arm.py --docs -->", "<!-- end of ARM results -->"
ITERATIONS = 50


@dataclass(frozen=True)
class Core:
    """A core to estimate. target: nomul's name.  model: of LLVM's, that is nearest.  peak: f32 operations per cycle.

    source: of the peak, which the model may differ from."""

    name: str
    target: str
    model: str
    peak: int
    source: str


CORES = (
    # FMLA, Q-form: throughput 1 (section 3.16)
    Core("Cortex-A72", "rpi4", "cortex-a72", 8, "Arm, Cortex-A72 Software Optimization Guide"),
    # FMLA: throughput 2 (section 3.14). LLVM has no model of this core; Neoverse N1 is the same one for servers.
    Core("Cortex-A76", "rpi5", "neoverse-n1", 16, "Arm, Cortex-A76 Software Optimization Guide"),
    # Four vector units. LLVM's model is of Cyclone (2013), with three and six instructions per cycle.
    Core("Apple M1", "apple-m1", "apple-m1", 32, "D. Johnson, Apple M1 Firestorm Microarchitecture"),
)


@dataclass(frozen=True)
class Case:
    """A kernel with known sizes. flops: multiplications and additions of its definition."""

    name: str
    group: Group
    flops: int

    @property
    def outputs(self) -> int:
        return int(self.group.results[0].numel)


@dataclass(frozen=True)
class Row:
    """of_model: estimated operations per cycle by those of a loop of multiply-adds only, on the same model.

    loop_instructions, loop_vector, loop_fma: of the block that takes most of the time; spills: loads and stores of the
    stack in it."""

    case: str
    core: str
    kernel: str
    instructions: int
    instructions_per_output: float
    cycles: float
    flops_per_cycle: float
    of_model: float
    core_peak: int
    loop_instructions: int
    loop_vector: int
    loop_fma: int
    loop_spills: int


def cases() -> Iterator[Case]:
    for rows, depth, width in ((96, 384, 384), (1, 384, 384)):
        types = (_f32(rows, depth), _f32(width, depth), _f32(width))
        linear = _group(lambda b, x, w, c: b.nn.linear(x, w, c), types, (1, 2))
        yield Case(f"linear {rows} x {depth} x {width}", linear, 2 * rows * depth * width)
    yield _convolution(28, 64, 64, 3, 1)
    yield _convolution(28, 64, 128, 1, 1)
    yield _convolution(28, 64, 64, 3, 64)
    yield _convolution(28, 64, 64, 5, 64)
    heads = (_f32(1, 128, 4, 32),) * 3
    attention = _group(lambda b, q, k, v: b.nn.attention(q, k, v, scale=0.17), heads)
    yield Case("attention 128 x 4 x 32", attention, 4 * 128 * 128 * 4 * 32)
    norm = _group(lambda b, x, g, c: b.nn.layer_norm(x, g, c), (_f32(64, 384), _f32(384), _f32(384)), (1, 2))
    yield Case("layer norm 64 x 384", norm, 8 * 64 * 384)
    yield Case("softmax 64 x 384", _group(lambda b, x: b.nn.softmax(x, axis=1), (_f32(64, 384),)), 4 * 64 * 384)
    yield Case("gelu 64 x 384", _group(lambda b, x: b.ew.gelu(x), (_f32(64, 384),)), 4 * 64 * 384)


def _convolution(side: int, channels: int, out: int, kernel: int, groups: int) -> Case:
    attrs = {"pads": (kernel // 2,) * 4, "groups": groups, "layout": "nhwc"}
    types = (_f32(1, side, side, channels), _f32(out, channels // groups, kernel, kernel), _f32(out))
    group = _group(lambda b, x, w, c: b.nn.conv2d(x, w, c, **attrs), types, (1, 2))
    kind = "depthwise" if groups > 1 else "conv"
    flops = 2 * side * side * out * channels // groups * kernel * kernel
    return Case(f"{kind} {kernel}x{kernel} {side}x{side} {channels} -> {out}", group, flops)


def _f32(*shape: int) -> Tensor:
    return Tensor.of("f32", *shape)


def _group(build: Callable[..., Value], types: tuple[Tensor, ...], weights: Iterable[int] = ()) -> Group:
    func = Func("bench", [Value(f"x{i}", type) for i, type in enumerate(types)])
    func.returns = [build(Builder(func), *func.params)]
    return Group(func, frozenset(weights))


# -- cycles ----------------------------------------------------------------------------------------------------------
@cache
def mca() -> str:
    """The newest llvm-mca: older ones know fewer cores."""
    found = [name for name in (f"llvm-mca-{version}" for version in range(30, 16, -1)) if shutil.which(name)]
    if found or shutil.which("llvm-mca"):
        return found[0] if found else "llvm-mca"
    raise SystemExit("llvm-mca is not installed (Debian: apt-get install llvm-19 or newer)")


@cache
def cycles(instructions: tuple[str, ...], model: str) -> float:
    """Of one pass through a loop of these instructions."""
    text = "\n".join(re.sub(r"^((?:b|bl|cb|tb)\S*\s.*)#0x[0-9a-f]+$", r"\1#4", line) for line in instructions)
    command = [mca(), "-mtriple=aarch64", f"-mcpu={model}", "-mattr=+fullfp16,+dotprod", f"-iterations={ITERATIONS}"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if total is None:
        raise SystemExit(f"llvm-mca: {done.stderr}")
    return int(total[1]) / ITERATIONS


def peak(model: str) -> float:
    """Operations per cycle of multiply-adds alone."""
    loop = tuple(f"fmla v{i}.4s, v30.4s, v31.s[0]" for i in range(24))
    return 8 * len(loop) / cycles(loop, model)


def measure(case: Case, core: Core) -> Row:
    (target,) = find_target(core.target)
    choice = choose(case.group, (target,))
    blocks = trace(case.group, choice.built[0], target)
    times = [(block.count * cycles(block.instructions, core.model), block) for block in blocks]
    total = sum(time for time, _ in times)
    _, hottest = max(times, key=lambda pair: pair[0])
    instructions = sum(block.count * len(block.instructions) for block in blocks)
    return Row(
        case.name,
        core.name,
        choice.label,
        instructions,
        instructions / case.outputs,
        total,
        case.flops / total,
        case.flops / total / peak(core.model),
        core.peak,
        len(hottest.instructions),
        *_mix(hottest),
    )


def _mix(block: Block) -> tuple[int, int, int]:
    """(instructions that compute with vectors, multiply-adds among them, accesses to the stack)."""
    memory = re.compile(r"(ld|st|prfm)")
    vector = [line for line in block.instructions if re.search(r"\bv\d+\.", line) and not memory.match(line)]
    spills = [line for line in block.instructions if memory.match(line) and "[sp" in line]
    return len(vector), sum(line.startswith("fmla") for line in vector), len(spills)


# -- results ---------------------------------------------------------------------------------------------------------
COLUMNS = (
    *("kernel", "core", "instructions per output", "flops per cycle", "of the model's peak"),
    *("hottest block: instructions", "vector arithmetic", "multiply-adds", "spills"),
)


def cells(row: Row) -> tuple[str, ...]:
    return (
        *(row.case, row.core, f"{row.instructions_per_output:.1f}", f"{row.flops_per_cycle:.1f}"),
        *(f"{row.of_model:.0%}", str(row.loop_instructions), str(row.loop_vector)),
        *(str(row.loop_fma), str(row.loop_spills)),
    )


def update_docs(rows: list[Row]) -> None:
    """Replaces the results in docs/benchmarks.md."""
    peaks = [
        f"- {core.name}: {core.peak} f32 operations per cycle ({core.source}); LLVM's model `{core.model}`: "
        f"{peak(core.model):.1f}"
        for core in CORES
    ]
    replace_section(PAGE, START, END, [*peaks, "", *markdown_table(COLUMNS, map(cells, rows))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--docs", action="store_true", help="write the table of docs/benchmarks.md")
    parser.add_argument("--case", default="", help="only kernels whose name has this text")
    arguments = parser.parse_args()
    rows = [measure(case, core) for case in cases() if arguments.case in case.name for core in CORES]
    table("estimates, not measured on any of these cores", COLUMNS, [cells(row) for row in rows])
    if arguments.json:
        result: dict[str, Any] = {
            "estimated_by": f"{mca()} and qemu-aarch64",
            "cores": [asdict(core) | {"model_peak": peak(core.model)} for core in CORES],
            "rows": [asdict(row) for row in rows],
        }
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.docs:
        update_docs(rows)


if __name__ == "__main__":
    main()
