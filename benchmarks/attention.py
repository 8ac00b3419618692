"""Times attention variants beside torch's scaled_dot_product_attention and onnxruntime's MultiHeadAttention.

`python benchmarks/attention.py [--tokens 128 1024 4096 16384] [--threads 1 2] [--json FILE]`: one head group of 8 heads
of 64 elements. All contenders run in turns on the same numbers, results are compared before anything is timed, and the
multiply-add peak of the machine is measured before and after. Scratch memory is what `run` uses beyond inputs and
outputs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import limits
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper

import nomul
from nomul.console import size_text, table
from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value
from nomul.ir.types import Tensor

HEADS, SIZE, TILE, WINDOW = 8, 64, 64, 512
LEAST_ROUNDS = 3
Job = Callable[[], Any]


@dataclass(frozen=True)
class Variant:
    """op, attrs: of the node.  seen: how many (query, key) pairs a head computes of so many tokens; None: it grows with
    the tokens alone.  tiles: the share of tiles that are kept."""

    name: str
    op: str = "attention"
    attrs: Mapping[str, Any] | None = None
    seen: Callable[[int], float] | None = None
    tiles: float = 0.0

    def fits(self, tokens: int) -> bool:
        return self.op != "sparse_linear_attention" or tokens >= 10 * TILE


VARIANTS = (
    Variant("softmax", seen=lambda n: n * n),
    Variant("causal", attrs={"causal": True}, seen=lambda n: n * (n + 1) / 2),
    Variant("window", attrs={"causal": True, "window": WINDOW}, seen=lambda n: _window_pairs(n)),
    Variant("tiles 25 %", attrs={"tile": TILE}, seen=lambda n: 0.25 * n * n, tiles=0.25),
    Variant("tiles 10 %", attrs={"tile": TILE}, seen=lambda n: 0.10 * n * n, tiles=0.10),
    Variant("linear", "linear_attention", {"map": "elu"}),
    Variant("linear causal", "linear_attention", {"map": "elu", "causal": True}),
    Variant("sparse-linear 90 %", "sparse_linear_attention", {"block": TILE}),
)


@dataclass(frozen=True)
class Row:
    """Milliseconds are medians. of_peak: the share of the multiply-add peak that the kept pairs come to; ratios: the
    other's time by ours."""

    variant: str
    tokens: int
    threads: int
    nomul_ms: float
    torch_ms: float | None
    onnxruntime_ms: float | None
    of_peak: float | None
    torch_ratio: float | None
    us_per_token: float
    scratch_bytes: int


def _window_pairs(tokens: int) -> float:
    short = min(tokens, WINDOW)
    return short * (short + 1) / 2 + max(0, tokens - WINDOW) * WINDOW


def module_of(variant: Variant, tokens: int) -> Module:
    heads = Tensor.of("f32", 1, tokens, HEADS, SIZE)
    params = [Value(name, heads) for name in "qkv"]
    if variant.tiles:
        blocks = -(-tokens // TILE)
        params.append(Value("tiles", Tensor.of("bool", 1, 1, blocks, blocks)))
    func = Func("main", params)
    build, attrs = Builder(func), dict(variant.attrs or {})
    if variant.op == "linear_attention":
        func.returns = [build.nn.linear_attention(*params, **attrs)]
    elif variant.op == "sparse_linear_attention":
        critical = max(1, tokens // TILE // 10)
        func.returns = [build.nn.sparse_linear_attention(*params, scale=SIZE**-0.5, critical=critical, **attrs)]
    else:
        operands = [*params[:3], None, None, None, params[3]] if variant.tiles else params
        func.returns = [build.nn.attention(*operands, scale=SIZE**-0.5, **attrs)]
    module = Module()
    module.add_func(func)
    return module


def ours(variant: Variant, arrays: list[np.ndarray], threads: int, folder: Path) -> tuple[Job, int]:
    """A run, and its scratch memory in bytes."""
    tokens = arrays[0].shape[1]
    artifact = nomul.compile(module_of(variant, tokens), output=str(folder / f"{variant.name}.{tokens}.so"))
    values = list(arrays)
    if variant.tiles:
        blocks = -(-tokens // TILE)
        kept = np.random.default_rng(2).permuted(np.arange(blocks * blocks).reshape(blocks, blocks), axis=1)
        order = np.argsort(kept, axis=1)
        values.append((order < max(1, round(variant.tiles * blocks)))[None, None])
    return lambda: artifact(*values, threads=threads)[0], artifact.scratch_bytes({}, threads)


def by_torch(variant: Variant, arrays: list[np.ndarray], threads: int) -> Job | None:
    """torch's attention where it has the variant without a mask."""
    if variant.name not in ("softmax", "causal"):
        return None
    torch.set_num_threads(threads)
    q, k, v = (torch.from_numpy(np.ascontiguousarray(array.transpose(0, 2, 1, 3))) for array in arrays)
    is_causal = variant.name == "causal"

    def run() -> np.ndarray:
        with torch.inference_mode():
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal).numpy()

    return lambda: run().transpose(0, 2, 1, 3)


def by_onnxruntime(variant: Variant, arrays: list[np.ndarray], threads: int) -> Job | None:
    if variant.name not in ("softmax", "causal"):
        return None
    tokens = arrays[0].shape[1]
    attrs = {"num_heads": HEADS, "unidirectional": int(variant.name == "causal")}
    node = helper.make_node("MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", **attrs)
    shape = [1, tokens, HEADS * SIZE]
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "qkvy"]
    graph = helper.make_graph([node], "attention", ports[:3], ports[3:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: array.reshape(shape) for name, array in zip("qkv", arrays, strict=True)}
    return lambda: session.run(None, feeds)[0].reshape(arrays[0].shape)


def medians(jobs: Mapping[str, Job], seconds: float) -> dict[str, float]:
    """Milliseconds of each, run in turns."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, spent.values())) < LEAST_ROUNDS:
        for name, job in jobs.items():
            time.sleep(0.03)  # until worker threads of the one before no longer spin
            start = time.perf_counter()
            job()
            spent[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(times) for name, times in spent.items()}


def measure(variant: Variant, tokens: int, threads: int, seconds: float, folder: Path, peak: float) -> Row:
    rng = np.random.default_rng(1)
    arrays = [rng.standard_normal((1, tokens, HEADS, SIZE)).astype(np.float32) for _ in range(3)]
    run, scratch = ours(variant, arrays, threads, folder)
    found = {"torch": by_torch(variant, arrays, threads), "onnxruntime": by_onnxruntime(variant, arrays, threads)}
    others = {name: job for name, job in found.items() if job is not None}
    result = run()
    for name, job in others.items():
        if (difference := float(np.abs(result - job()).max())) > 1e-4:
            raise SystemExit(f"{variant.name} at {tokens} tokens: {difference:g} away from {name}")
    times = medians({"nomul": run, **others}, seconds)
    mine, torch_ms = times["nomul"], times.get("torch")
    pairs = variant.seen(tokens) if variant.seen else None
    return Row(
        variant=variant.name,
        tokens=tokens,
        threads=threads,
        nomul_ms=mine,
        torch_ms=torch_ms,
        onnxruntime_ms=times.get("onnxruntime"),
        of_peak=None if pairs is None else 4 * pairs * HEADS * SIZE / mine / 1e6 / peak,
        torch_ratio=torch_ms / mine if torch_ms else None,
        us_per_token=mine * 1e3 / tokens,
        scratch_bytes=scratch,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 1024, 4096, 16384])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--variants", nargs="*", default=[variant.name for variant in VARIANTS])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    peaks = {threads: limits.measure(threads).gflops for threads in arguments.threads}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for threads in arguments.threads:
            for tokens in arguments.tokens:
                for variant in VARIANTS:
                    if variant.name in arguments.variants and variant.fits(tokens):
                        row = measure(variant, tokens, threads, arguments.seconds, Path(folder), peaks[threads])
                        rows.append(row)
    after = {threads: limits.measure(threads).gflops for threads in arguments.threads}
    show(rows)
    for threads in arguments.threads:
        print(f"{threads} threads: peak {peaks[threads]:.0f} GFLOPS before, {after[threads]:.0f} after")
    if arguments.json:
        result = {"peak_before": peaks, "peak_after": after, "rows": [asdict(row) for row in rows]}
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")


def show(rows: list[Row]) -> None:
    columns = ("variant", "tokens", "threads", "nomul ms", "torch ms", "onnxruntime ms", "torch / nomul", "of peak")
    cells = [
        (
            row.variant,
            str(row.tokens),
            str(row.threads),
            f"{row.nomul_ms:.2f}",
            *(f"{value:.2f}" if value else "" for value in (row.torch_ms, row.onnxruntime_ms, row.torch_ratio)),
            f"{row.of_peak:.0%}" if row.of_peak else "",
            f"{row.us_per_token:.2f}",
            size_text(row.scratch_bytes),
        )
        for row in rows
    ]
    table("", (*columns, "us per token", "scratch"), cells)


if __name__ == "__main__":
    main()
