"""Times depthwise convolutions on one thread: in floats, with encoded weights, and with inputs in eight bits too, their
quantisation apart: `python benchmarks/depthwise.py [--level v3] [--encoding int4] [--json FILE]`.

GMAC/s are multiply-adds of taps, those on padding too, 1e9 per second.
"""

from __future__ import annotations

import argparse
import ctypes
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from one_kernel import aligned, aligned_copy, link

from nomul.backends.build import packed_fields
from nomul.backends.group import Group
from nomul.backends.select import choose
from nomul.backends.target import Target, find_target
from nomul.console import table
from nomul.ir.builder import Builder
from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Value, Weight
from nomul.ir.syntax import parse_encoding
from nomul.ir.types import DType, Tensor
from nomul.timing import Job, measure

SECONDS = 0.6  # for each layer
RNG = np.random.default_rng(1)
PLAIN, ENCODED, BYTES, QUANTISE = "f32", "encoded weights", "eight bits", "quantise"


@dataclass(frozen=True)
class Layer:
    """A square image and kernel, padded to the image's own size before strides."""

    side: int
    channels: int
    kernel: int
    stride: int = 1

    @property
    def attrs(self) -> dict[str, Any]:
        pads = (self.kernel // 2,) * 4
        return {"layout": "nhwc", "groups": self.channels, "pads": pads, "strides": (self.stride,) * 2}

    @property
    def products(self) -> int:
        return (-(-self.side // self.stride) * self.kernel) ** 2 * self.channels


LAYERS = (
    Layer(112, 32, 3),
    Layer(112, 96, 3, 2),
    Layer(80, 48, 3),
    Layer(56, 144, 3),
    Layer(28, 192, 3),
    Layer(14, 576, 3),
    Layer(40, 96, 5),
    Layer(28, 120, 5),
    Layer(20, 192, 5),
    Layer(7, 960, 5),
    Layer(56, 96, 7),
    Layer(14, 384, 7),
    Layer(80, 96, 9),
)


def make_group(types: Sequence[Tensor], build: Any, weights: Sequence[int]) -> Group:
    func = Func("bench", [Value(f"x{number}", type) for number, type in enumerate(types)])
    func.returns = list(build(Builder(func), *func.params))
    return Group(func, frozenset(weights))


def groups(layer: Layer, encoding: str) -> dict[str, Group]:
    shape = (1, layer.side, layer.side, layer.channels)
    kernel = tuple(map(Dim.of, (layer.channels, 1, layer.kernel, layer.kernel)))
    dense, coded = (Tensor(DType.F32, kernel, found) for found in (None, parse_encoding(encoding)))
    image, q, bias = Tensor.of("f32", *shape), Tensor.of("i8", *shape), Tensor.of("f32", layer.channels)

    def floats(b: Builder, *operands: Value) -> list[Value]:
        return [b.nn.conv2d(*operands, **layer.attrs)]

    def integers(b: Builder, *operands: Value) -> list[Value]:
        return [b.nn.quantised_conv2d(*operands, **layer.attrs)]

    def quantise(b: Builder, x: Value) -> list[Value]:
        return list(b.node("nn.quantise", x, lead=1).results)

    return {
        PLAIN: make_group((image, dense, bias), floats, (1, 2)),
        ENCODED: make_group((image, coded, bias), floats, (1, 2)),
        BYTES: make_group((q, Tensor.of("f32", 1), coded, bias), integers, (2, 3)),
        QUANTISE: make_group((image,), quantise, ()),
    }


def job(group: Group, target: Target) -> tuple[str, Job]:
    """(which kernel, a run of all its tiles)."""
    choice = choose(group, (target,))
    built, entry = choice.built[0], link(choice, target)
    memories = [
        memory
        for position, param in enumerate(group.func.params)
        for memory in _operand(param.type, built.layouts.get(position), position in group.weights)
    ]
    memories += [aligned(int(type.bytes)) for type in group.results]
    scratch = aligned(int(built.scratch) + 64)
    pointers = [ctypes.c_void_p(memory.ctypes.data) for memory in (*memories, scratch)]
    arguments = (*pointers[:-1], ctypes.c_int64(0), ctypes.c_int64(int(built.tiles)), pointers[-1])
    return choice.label, lambda: (memories, scratch, entry(*arguments))


def _operand(type: Tensor, layout: str | None, is_weight: bool) -> list[np.ndarray]:
    shape = tuple(int(size) for size in type.shape)
    if type.dtype.is_integer:
        return [aligned_copy(RNG.integers(-127, 128, shape).astype(type.dtype.numpy))]
    array = RNG.standard_normal(shape).astype(np.float32)
    if not is_weight:
        return [aligned_copy(array)]
    fields = type.encoding.pack(array) if type.encoding else {"data": array}
    return [aligned_copy(field) for field in packed_fields(Weight("w", type, dict(fields)), layout).values()]


def run_layer(layer: Layer, target: Target, encoding: str) -> dict[str, Any]:
    jobs = {name: job(group, target) for name, group in groups(layer, encoding).items()}
    times = measure({name: run for name, (_, run) in jobs.items()}, SECONDS)
    low = {name: times[name].low * 1e3 for name in jobs}
    return {
        **asdict(layer),
        "us": low,
        "gmacs": {name: layer.products / low[name] / 1e3 for name in (PLAIN, ENCODED, BYTES)},
        "with_quantise": low[PLAIN] / (low[BYTES] + low[QUANTISE]),
        "kernels": {name: label for name, (label, _) in jobs.items()},
    }


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{row['side']}x{row['side']}x{row['channels']}, {row['kernel']}x{row['kernel']} /{row['stride']}",
        *(f"{row['us'][name]:.1f}" for name in (PLAIN, ENCODED, BYTES, QUANTISE)),
        *(f"{row['gmacs'][name]:.1f}" for name in (PLAIN, BYTES)),
        f"{row['with_quantise']:.2f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", help="instruction-set level, as v3; the best one of this machine if left out")
    parser.add_argument("--encoding", default="int8", help="of the weights (default int8)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    levels = {target.level: target for target in find_target("host")}
    target = levels[arguments.level] if arguments.level else next(iter(levels.values()))
    rows = [run_layer(layer, target, arguments.encoding) for layer in LAYERS]
    units = [f"{name} us" for name in (PLAIN, ENCODED, BYTES, QUANTISE)]
    table("", ("layer", *units, "f32 GMAC/s", "eight bits GMAC/s", "times as fast"), [cells(row) for row in rows])
    if arguments.json:
        arguments.json.write_text(json.dumps({"level": target.level, "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
