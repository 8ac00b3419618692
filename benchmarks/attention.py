"""Times attention variants beside torch's scaled_dot_product_attention and onnxruntime's MultiHeadAttention.

`python benchmarks/attention.py [--tokens 128 1024 4096 16384] [--keys 16384 65536] [--threads 1 2] [--json FILE]`: 8
heads of 64 elements. --keys: of one query (decode). All contenders run in turns on the same numbers, results are
compared before anything is timed, and the machine's limits are measured before and after. Memory of results stays with
the process (Linux), for all contenders: else the system clears that of 16,384 tokens anew for each run. Scratch memory
is what `run` uses beyond inputs and outputs. --docs writes the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import limits
import numpy as np
import onnx
import onnxruntime
import results
import torch
from attention_variants import HEADS, SIZE, VARIANTS, Variant, module_of, numbers
from onnx import helper

import nomul
from nomul.console import size_text

LEAST_ROUNDS = 3
LONG = 4.0  # seconds of a round of which two are enough
LONG_RUN = 200.0  # milliseconds from which on threads that wake up do not show
PAUSE = 0.3  # seconds until worker threads of the one before, torch's above all, no longer spin
MARKS = ("<!-- results: benchmarks/attention.py --docs -->", "<!-- end of attention results -->")
COLUMNS = (
    *("variant", "tokens", "threads", "nomul ms", "torch ms", "onnxruntime ms", "torch / nomul", "of FMA peak"),
    *("us per token", "GB/s", "of read", "scratch"),
)
MMAP_MAX, TRIM_THRESHOLD = -4, -1  # options of glibc's mallopt
Job = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """Milliseconds are medians. of_peak: the share of the multiply-add peak that the kept pairs come to; ratios: the
    other's time by ours; read_gbs, of_read: of keys and values (with scales), where one query reads them."""

    variant: str
    tokens: int
    threads: int
    nomul_ms: float
    torch_ms: float | None
    onnxruntime_ms: float | None
    of_peak: float | None
    torch_ratio: float | None
    us_per_token: float
    read_gbs: float | None
    of_read: float | None
    scratch_bytes: int


def ours(variant: Variant, arrays: list[np.ndarray], threads: int, folder: Path) -> tuple[Job, int]:
    """A run, and its scratch memory in bytes. Compiles what is not in the folder yet."""
    tokens = arrays[1].shape[1]
    path = folder / f"{variant.name}.{tokens}.so"
    artifact = nomul.load(str(path)) if path.exists() else nomul.compile(module_of(variant, tokens), output=str(path))
    return lambda: artifact(*arrays, threads=threads)[0], artifact.scratch_bytes({}, threads)


def by_torch(variant: Variant, arrays: list[np.ndarray], threads: int) -> Job | None:
    """torch's attention where it has the variant without a mask."""
    if not variant.is_standard:
        return None
    torch.set_num_threads(threads)
    q, k, v = (torch.from_numpy(np.ascontiguousarray(array.transpose(0, 2, 1, 3))) for array in arrays)

    def run() -> np.ndarray:
        with torch.inference_mode():
            result = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=variant.is_causal)
            return result.numpy()

    return lambda: run().transpose(0, 2, 1, 3)


def by_onnxruntime(variant: Variant, arrays: list[np.ndarray], threads: int) -> Job | None:
    if not variant.is_standard:
        return None
    attrs = {"num_heads": HEADS, "unidirectional": int(variant.is_causal)}
    node = helper.make_node("MultiHeadAttention", list("qkv"), ["y"], domain="com.microsoft", **attrs)
    feeds = {name: array.reshape(1, -1, HEADS * SIZE) for name, array in zip("qkv", arrays, strict=True)}
    shapes = {name: array.shape for name, array in feeds.items()} | {"y": feeds["q"].shape}
    ports = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "attention", ports[:3], ports[3:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)[0].reshape(arrays[0].shape)


def medians(jobs: Mapping[str, Job], seconds: float) -> dict[str, float]:
    """Milliseconds of each, run in turns."""
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    start = time.perf_counter()
    while not _is_enough(time.perf_counter() - start, min(map(len, spent.values())), seconds):
        for name, job in jobs.items():
            time.sleep(PAUSE)
            spent[name] += _turn(job)
    return {name: statistics.median(times) for name, times in spent.items()}


def _turn(job: Job) -> list[float]:
    """Milliseconds of some runs behind one that wakes its threads; of this one where it is long."""
    first = _milliseconds(job)
    return [first] if first > LONG_RUN else [_milliseconds(job) for _ in range(LEAST_ROUNDS)]


def _milliseconds(job: Job) -> float:
    begin = time.perf_counter()
    job()
    return (time.perf_counter() - begin) * 1e3


def _is_enough(elapsed: float, rounds: int, seconds: float) -> bool:
    least = 2 if elapsed > LONG * rounds else LEAST_ROUNDS
    return elapsed >= seconds and rounds >= least


def measure(variant: Variant, tokens: int, threads: int, seconds: float, folder: Path, limit: limits.Limits) -> Row:
    arrays = numbers(variant, tokens)
    run, scratch = ours(variant, arrays, threads, folder)
    found = {"torch": by_torch(variant, arrays, threads), "onnxruntime": by_onnxruntime(variant, arrays, threads)}
    others = {name: job for name, job in found.items() if job is not None}
    result = run()
    for name, job in others.items():
        if (difference := float(np.abs(result - job()).max())) > variant.tolerance:
            raise SystemExit(f"{variant.name} at {tokens} tokens: {difference:g} away from {name}")
    times = medians({"nomul": run, **others}, seconds)
    mine, torch_ms = times["nomul"], times.get("torch")
    pairs = variant.seen(tokens) if variant.seen else None
    read = sum(array.nbytes for array in arrays[1:]) / mine / 1e6 if variant.decodes else None
    return Row(
        variant=variant.name,
        tokens=tokens,
        threads=threads,
        nomul_ms=mine,
        torch_ms=torch_ms,
        onnxruntime_ms=times.get("onnxruntime"),
        of_peak=None if pairs is None else 4 * pairs * HEADS * SIZE / mine / 1e6 / limit.gflops,
        torch_ratio=torch_ms / mine if torch_ms else None,
        us_per_token=mine * 1e3 / tokens,
        read_gbs=read,
        of_read=read / limit.read_gbs if read else None,
        scratch_bytes=scratch,
    )


def rows_of(arguments: argparse.Namespace, before: Mapping[int, limits.Limits]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for threads in arguments.threads:
            for variant in VARIANTS:
                sizes = arguments.keys if variant.decodes else arguments.tokens
                for tokens in sizes if variant.name in arguments.variants else ():
                    if variant.fits(tokens):
                        row = measure(variant, tokens, threads, arguments.seconds, Path(folder), before[threads])
                        print(*cells(asdict(row)), flush=True)
                        yield row


def keep_memory() -> None:
    """Freed memory stays with the process, however large."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 1 << 30)):
            libc.mallopt(option, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 1024, 4096, 16384])
    parser.add_argument("--keys", type=int, nargs="*", default=[16384, 65536], help="of one query")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--variants", nargs="*", default=[variant.name for variant in VARIANTS])
    parser.add_argument("--seconds", type=float, default=0.5, help="for each row")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    keep_memory()
    before = {threads: limits.measure(threads) for threads in arguments.threads}
    rows = list(rows_of(arguments, before))
    after = {threads: limits.measure(threads) for threads in arguments.threads}
    result = {
        "limits_before": [asdict(limit) for limit in before.values()],
        "limits_after": [asdict(limit) for limit in after.values()],
        "rows": [asdict(row) for row in rows],
        "skipped": {},
    }
    lines = list(results.limit_lines(result))
    results.show(COLUMNS, cells, lines, result)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
    if arguments.docs:
        results.put(results.PAGE, MARKS, COLUMNS, cells, lines, result)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    def number(name: str, form: str) -> str:
        return "" if row[name] is None else format(row[name], form)

    return (
        row["variant"],
        str(row["tokens"]),
        str(row["threads"]),
        *(number(name, ".2f") for name in ("nomul_ms", "torch_ms", "onnxruntime_ms", "torch_ratio")),
        number("of_peak", ".0%"),
        number("us_per_token", ".2f"),
        number("read_gbs", ".1f"),
        number("of_read", ".0%"),
        size_text(row["scratch_bytes"]),
    )


if __name__ == "__main__":
    main()
