"""Times our linear and convolution kernels on one thread beside onnxruntime and the measured multiply-add peak.

`python benchmarks/gemm.py [--level v4] [--json FILE]`: both are timed in turns, by the CPU time of the one thread that
they run on, so that other processes disturb little; the best of many runs counts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import limits
import numpy as np
import onnx
import onnxruntime
from one_kernel import aligned_copy, link
from onnx import helper, numpy_helper

from nomul.backends.build import packed_fields
from nomul.backends.group import Group
from nomul.backends.select import choose
from nomul.backends.target import Target, find_target
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Value, Weight
from nomul.ir.types import Tensor

SECONDS = 0.3  # of repetitions for each shape and side
RNG = np.random.default_rng(1)


@dataclass(frozen=True)
class Case:
    """A linear layer [M, K] x [N, K], or a convolution of an image [1, H, W, C]; both with bias."""

    name: str
    x: tuple[int, ...]
    weights: tuple[int, ...]
    stride: int = 1
    groups: int = 1

    @property
    def pad(self) -> int:
        return self.weights[-1] // 2 if len(self.weights) == 4 else 0


@dataclass(frozen=True)
class Row:
    """ratio: our time by onnxruntime's.  of_peak: our rate by the larger of the peaks measured before and after."""

    case: str
    kernel: str
    nomul_us: float
    onnxruntime_us: float
    ratio: float
    gflops: float
    of_peak: float = 0.0


def linear(rows: int, depth: int, width: int) -> Case:
    return Case(f"linear {rows} x {depth} x {width}", (rows, depth), (width, depth))


def convolution(
    height: int, width: int, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1
) -> Case:
    depthwise = " depthwise" if groups > 1 else ""
    name = f"conv{depthwise} {kernel}x{kernel} /{stride} {height}x{width} {channels} -> {out}"
    return Case(name, (1, height, width, channels), (out, channels // groups, kernel, kernel), stride, groups)


CASES = [
    *(linear(rows, 384, 384) for rows in (1, 8, 16, 128)),
    linear(128, 384, 1536),
    linear(128, 1536, 384),
    linear(128, 1536, 1536),
    linear(1, 4096, 4096),
    convolution(48, 320, 3, 32, 3, 2),
    convolution(48, 320, 64, 64, 3),
    convolution(14, 14, 256, 256, 3),
    convolution(7, 7, 512, 512, 3),
    convolution(24, 160, 64, 128, 1),
    convolution(24, 160, 64, 64, 3, groups=64),
    convolution(12, 80, 128, 128, 5, groups=128),
    convolution(56, 56, 144, 144, 3, 2, groups=144),
]


def make_group(case: Case) -> Group:
    x, w, bias = (Tensor.of("f32", *shape) for shape in (case.x, case.weights, case.weights[:1]))
    func = Func("bench", [Value("x", x), Value("w", w), Value("bias", bias)])
    builder = Builder(func)
    if len(case.weights) == 2:
        func.returns = [builder.nn.linear(*func.params)]
    else:
        attrs = {"strides": (case.stride,) * 2, "pads": (case.pad,) * 4, "groups": case.groups, "layout": "nhwc"}
        func.returns = [builder.nn.conv2d(*func.params, **attrs)]
    return Group(func, frozenset({1, 2}))


def ours(case: Case, arrays: list[np.ndarray], target: Target) -> tuple[Callable[[], np.ndarray], str]:
    group = make_group(case)
    choice = choose(group, (target,))
    built, entry = choice.built[0], link(choice, target)
    x, w, bias = arrays
    weight = Weight("w", group.func.params[1].type, {"data": w})
    (packed,) = packed_fields(weight, built.layouts.get(1)).values()
    result = aligned_copy(np.zeros([int(size) for size in group.results[0].shape], np.float32))
    scratch = aligned_copy(np.zeros(int(built.scratch) + 64, np.uint8))
    buffers = [aligned_copy(x), aligned_copy(packed), aligned_copy(bias), result]
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in [*buffers, scratch]]
    arguments = [*pointers[:4], ctypes.c_int64(0), ctypes.c_int64(int(built.tiles)), pointers[4]]

    def run() -> np.ndarray:
        entry(*arguments)
        return buffers[3]

    return run, choice.label


def theirs(case: Case, arrays: list[np.ndarray]) -> Callable[[], np.ndarray]:
    x, w, bias = arrays
    image = len(case.weights) == 4
    if image:
        attrs = {"strides": [case.stride] * 2, "pads": [case.pad] * 4, "group": case.groups}
        nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], **attrs)]
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    else:
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    ports = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)]
        for name, shape in (("x", x.shape), ("y", None))
    ]
    initializers = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "bench", *ports, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run() -> np.ndarray:
        (y,) = session.run(None, {"x": x})
        return y.transpose(0, 2, 3, 1) if image else y

    return run


def best_of(runs: list[Callable[[], Any]]) -> list[float]:
    """Seconds of the fastest run of each, called in turns."""
    best = [float("inf")] * len(runs)
    deadline = time.perf_counter() + SECONDS * len(runs)
    while time.perf_counter() < deadline:
        for number, run in enumerate(runs):
            start = time.thread_time()
            run()
            best[number] = min(best[number], time.thread_time() - start)
    return best


def peak_gflops() -> float:
    """Multiply-adds of this thread, by its CPU time too."""
    best, library = 0.0, limits._library()
    for _ in range(5):
        wall, cpu = time.perf_counter(), time.thread_time()
        rate = limits._fma(library)
        best = max(best, rate * (time.perf_counter() - wall) / (time.thread_time() - cpu))
    return best / 1e9


def measure(case: Case, target: Target) -> Row:
    arrays = [RNG.standard_normal(shape).astype(np.float32) for shape in (case.x, case.weights, case.weights[:1])]
    run, kernel = ours(case, arrays, target)
    other = theirs(case, arrays)
    difference = np.abs(run() - other()).max() / np.abs(other()).max()
    if difference > 1e-5:
        raise SystemExit(f"{case.name}: results differ by {difference:g}")
    our_time, their_time = best_of([run, other])
    gflops = 2 * run().size * np.prod(case.weights[1:]) / our_time / 1e9
    return Row(case.name, kernel, our_time * 1e6, their_time * 1e6, our_time / their_time, gflops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", default="", help="v2, v3 or v4 (the best that this machine has)")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    target = next(t for t in find_target("host") if arguments.level in ("", t.level))
    before = peak_gflops()
    timed = [measure(case, target) for case in CASES]
    after = peak_gflops()
    rows = [replace(row, of_peak=row.gflops / max(before, after)) for row in timed]
    for row in rows:
        print(
            f"{row.case:44s} {row.nomul_us:9.1f} us  onnxruntime {row.onnxruntime_us:9.1f} us  ratio {row.ratio:4.2f}  "
            f"{row.gflops:6.1f} GFLOPS = {row.of_peak:4.0%} of peak  {row.kernel}"
        )
    print(f"peak {before:.0f} GFLOPS before, {after:.0f} after")
    if arguments.json:
        plain_rows = [asdict(row) for row in rows]
        result = {"level": target.level, "peak_before": before, "peak_after": after, "rows": plain_rows}
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
