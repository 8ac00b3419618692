"""Measures what the machine can do: multiply-adds, byte products, byte look-ups, read bandwidth.

`python benchmarks/limits.py` prints it. Every benchmark measures these before and after itself, because a busy
neighbour moves them.
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
ROUNDS = 2_000_000
STREAMS = (1, 4)


@dataclass(frozen=True)
class Limits:
    """gflops: fused multiply-adds count twice.  read_gbs: bytes read from memory, 1e9 per second.

    int8_gops: products of bytes with sums of 32 bits, by the best instruction, two operations each.
    lookup_gbs, lookup2_gbs: bytes looked up in tables of 64 and of 128 bytes in registers (vpermb, vpermi2b); 0 where
    the machine has no such instruction."""

    threads: int
    gflops: float
    read_gbs: float
    int8_gops: float
    lookup_gbs: float
    lookup2_gbs: float


def measure(threads: int = 1) -> Limits:
    """The best of three short measurements on so many threads at once (about half a second)."""
    library = _library()
    memories = [_memory(index) for index in range(threads)]
    read = [lambda index, streams=streams: _read(library, memories[index], streams) for streams in STREAMS]
    registers = [
        lambda index, function=function: _rate(function)
        for function in (library.dot_rate, library.lookup_rate, library.lookup2_rate)
    ]
    rates = [_best(threads, job) / 1e9 for job in (lambda index: _fma(library), *read, *registers)]
    return Limits(threads, rates[0], max(rates[1 : 1 + len(STREAMS)]), *rates[1 + len(STREAMS) :])


def _fma(library: ctypes.CDLL) -> float:
    sink = ctypes.c_float()
    return float(library.fma_rate(ROUNDS, ctypes.c_float(0.5), ctypes.byref(sink)))


def _rate(function: Callable[[int, int], float]) -> float:
    memory = np.ones(1024 + 64, np.uint8)
    return float(function(ROUNDS, memory.ctypes.data + -memory.ctypes.data % 64))


def _read(library: ctypes.CDLL, memory: np.ndarray, streams: int) -> float:
    sink = ctypes.c_uint64()
    return float(library.read_rate(memory.ctypes.data, memory.nbytes, streams, ctypes.byref(sink)))


def _best(threads: int, job: Callable[[int], float]) -> float:
    return max(_total(threads, job) for _ in range(3))


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
    library.fma_rate.argtypes = [ctypes.c_int64, ctypes.c_float, ctypes.c_void_p]
    library.read_rate.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    for function in (library.dot_rate, library.lookup_rate, library.lookup2_rate):
        function.argtypes = [ctypes.c_int64, ctypes.c_void_p]
        function.restype = ctypes.c_double
    library.fma_rate.restype = library.read_rate.restype = ctypes.c_double
    return library


def text(limits: Limits) -> str:
    """One line for readers."""
    lookups = f", {limits.lookup_gbs:.0f} and {limits.lookup2_gbs:.0f} GB/s byte look-up" if limits.lookup_gbs else ""
    rates = f"{limits.gflops:.0f} GFLOPS, {limits.int8_gops:.0f} int8 GOPS{lookups}, {limits.read_gbs:.1f} GB/s read"
    return f"{limits.threads} threads: {rates}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [measure(threads) for threads in arguments.threads]
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    print("\n".join(map(text, rows)))


if __name__ == "__main__":
    main()
