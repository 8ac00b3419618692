"""Measures what the machine can do: FMA peak and read bandwidth. `python benchmarks/limits.py` prints it.

Every benchmark measures these before and after itself, because a busy neighbour moves them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np

READ_BYTES = 256 << 20  # per thread; larger than any last-level cache that one core fills
FMA_ROUNDS = 2_000_000


@dataclass(frozen=True)
class Limits:
    """gflops: fused multiply-adds count twice.  read_gbs: bytes read from memory, 1e9 per second."""

    threads: int
    gflops: float
    read_gbs: float


def measure(threads: int = 1) -> Limits:
    """The best of three short measurements on so many threads at once (about 0.3 s)."""
    library = _library()
    memories = [_memory(index) for index in range(threads)]
    flops = max(_total(threads, lambda index: _fma(library)) for _ in range(3))
    read = max(_total(threads, lambda index: _read(library, memories[index])) for _ in range(3))
    return Limits(threads, flops / 1e9, read / 1e9)


def _fma(library: ctypes.CDLL) -> float:
    sink = ctypes.c_float()
    return float(library.fma_rate(FMA_ROUNDS, ctypes.c_float(0.5), ctypes.byref(sink)))


def _read(library: ctypes.CDLL, memory: np.ndarray) -> float:
    sink = ctypes.c_uint64()
    return float(library.read_rate(memory.ctypes.data, memory.nbytes, ctypes.byref(sink)))


def _total(threads: int, job: Callable[[int], float]) -> float:
    rates = [0.0] * threads

    def work(index: int) -> None:
        rates[index] = job(index)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(1, threads)]
    for worker in workers:
        worker.start()
    work(0)
    for worker in workers:
        worker.join()
    return sum(rates)


@cache
def _memory(index: int) -> np.ndarray:
    """Touched memory of READ_BYTES that starts at a multiple of 64."""
    block = np.full(READ_BYTES + 64, index + 1, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + READ_BYTES]


@cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_name("limits.c")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "limits.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-O3", "-mcpu=native", "-ffp-contract=fast", "-shared"]
        subprocess.run([*command, "-fPIC", str(source), "-o", str(output)], check=True)
        library = ctypes.CDLL(str(output))
    library.fma_rate.restype = library.read_rate.restype = ctypes.c_double
    library.fma_rate.argtypes = [ctypes.c_int64, ctypes.c_float, ctypes.c_void_p]
    library.read_rate.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(threads) for threads in arguments.threads]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        print(f"{row.threads} threads: {row.gflops:6.0f} GFLOPS fused multiply-add, {row.read_gbs:5.1f} GB/s read")


if __name__ == "__main__":
    main()
