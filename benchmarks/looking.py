"""What it costs to look inside: `python benchmarks/looking.py`.

Prints, parses and verifies a module of 5,000 nodes (the fastest of a few runs), and compiles MiniLM-L6 with and without
--dump in turn (medians, with the programs that were started). All are seconds of processor time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nomul.api
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value, Weight
from nomul.ir.parser import parse_module
from nomul.ir.text import print_module
from nomul.ir.types import Tensor
from nomul.ir.verifier import verify

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]
import models  # stands beside this file

NODES, RUNS = 5000, 5


def tall_module(nodes: int) -> Module:
    """Layers of a linear layer, a norm, an activation and a sum, each of them with a source layer."""
    module = Module(dims={"B": (1, 8), "S": (1, 512)})
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", "B", "S", 64))]))
    build = Builder(func)
    x = func.params[0]
    for layer in range(nodes // 4):
        build.loc = f"encoder.layers.{layer}.mlp"
        weight = module.add_weight(Weight(f"layers.{layer}.weight", Tensor.of("f32", 64, 64)))
        x = build.ew.add(x, build.ew.gelu(build.nn.layer_norm(build.nn.linear(x, weight))), name=f"layers.{layer}.out")
    func.returns = [x]
    return module


def fastest(work: Callable[[], object]) -> float:
    """Seconds of processor time of the fastest of a few runs."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def text_form() -> None:
    module = tall_module(NODES)
    text = print_module(module)
    seconds = {
        "print": fastest(lambda: print_module(module)),
        "parse and verify": fastest(lambda: parse_module(text)),
        "verify": fastest(lambda: verify(module)),
    }
    print(f"text form of {len(module.main.nodes)} nodes: " + ", ".join(f"{k} {v:.2f} s" for k, v in seconds.items()))
    print(f"  in all: {sum(seconds.values()):.2f} s")


def dumping(pairs: int) -> None:
    entry = next(entry for entry in models.entries() if entry.name == "all-MiniLM-L6")
    subject = entry.load()
    plain: list[float] = []
    dumped: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "model.so"
        nomul.api.build(subject.model, output=output, dims=entry.dims, **subject.options)  # loads what is loaded once
        for _ in range(pairs):
            for times, dump in ((plain, None), (dumped, Path(folder) / "dump")):
                start = processor_time()
                nomul.api.build(subject.model, output=output, dims=entry.dims, dump=dump, **subject.options)
                times.append(processor_time() - start)
    without, with_dump = statistics.median(plain), statistics.median(dumped)
    print(f"compile {entry.name}: {without:.1f} s, with --dump {with_dump:.1f} s ({with_dump / without - 1:+.1%})")


def processor_time() -> float:
    """Seconds of this process and of the programs that it ran."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="compiles with and without --dump (default 3); 0: none")
    arguments = parser.parse_args()
    text_form()
    if arguments.pairs:
        dumping(arguments.pairs)


if __name__ == "__main__":
    main()
