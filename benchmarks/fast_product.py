"""Times large f32 layers with the transform `fast_product` (seven products of blocks) beside the plain ones, on one
thread: `python benchmarks/fast_product.py [--size 2048]`.
"""

from __future__ import annotations

import argparse

import numpy as np

import nomul
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value, Weight
from nomul.ir.types import Tensor
from nomul.passes.choice import Recipe, Rule
from nomul.passes.transforms import read_transformation
from nomul.timing import measure

SIZES = (512, 1024, 2048)
SECONDS = 3.0  # for each size
RNG = np.random.default_rng(0)


def layer(size: int) -> Module:
    """size rows times weights [size, size]."""
    module = Module()
    func = module.add_func(Func("main", [Value("x", Tensor.of("f32", size, size))]))
    weight = module.add_weight(Weight.dense("w", RNG.standard_normal((size, size)).astype(np.float32)))
    func.returns = [Builder(func).nn.linear(func.params[0], weight)]
    return module


def run_size(size: int) -> str:
    """A line of text: times, and the difference of results."""
    module, x = layer(size), RNG.standard_normal((size, size)).astype(np.float32)
    recipe = Recipe((Rule(transforms=(read_transformation("fast_product"),)),))
    artifacts = {"plain": nomul.compile(module), "fast": nomul.compile(module, recipe=recipe)}
    plain, fast = (np.asarray(artifact(x, threads=1)[0]) for artifact in artifacts.values())
    jobs = {name: (lambda artifact=artifact: artifact(x, threads=1)) for name, artifact in artifacts.items()}
    times = measure(jobs, SECONDS, least=5)
    error = np.abs(plain - fast).max() / np.abs(plain).max()
    gflops = 2e-6 * size**3 / times["plain"].low
    return (
        f"{size:5} plain {times['plain'].low:8.2f} ms ({gflops:.0f} GFLOPS), fast {times['fast'].low:8.2f} ms, "
        f"{times['plain'].low / times['fast'].low:.2f} times as fast, relative difference {error:.0e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help=f"default: {', '.join(map(str, SIZES))}")
    for size in parser.parse_args().size or SIZES:
        print(run_size(size), flush=True)


if __name__ == "__main__":
    main()
