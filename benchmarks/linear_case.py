"""What benchmarks/linear.py gives to each system: layers to compute, with weights that repeat every few rows.

The time of one layer is that of a run over several independent ones in one graph, each with inputs and weights of its
own: so weights leave the caches between runs, and the cost of a call is shared out as in a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

DISTINCT_ROWS = 256  # of the weights; packing and checking large layers stays quick so
_LAST_CACHE = 32 << 20  # bytes, where the system does not tell
_MOST_COPIES = 64
_SMALL_COPIES = 8

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Shape:
    """Weights [n, k]."""

    n: int
    k: int

    @property
    def weights(self) -> int:
        return self.n * self.k

    def __str__(self) -> str:
        return f"{self.n}x{self.k}"

    @cached_property
    def matrix(self) -> np.ndarray:
        """f32 [rows, k]: the rows of the weights, which repeat."""
        rows = min(self.n, DISTINCT_ROWS)
        return np.random.default_rng(0).standard_normal((rows, self.k)).astype(np.float32)

    def whole(self, rows: np.ndarray) -> np.ndarray:
        """All n rows (or what stands for them on the first axis) of what was made of `matrix`."""
        return np.ascontiguousarray(rows[np.arange(self.n) % len(rows)])


@dataclass(frozen=True)
class Work:
    """What a system loads. in_memory: so many copies of the weights that they leave all caches, else few."""

    shape: Shape
    in_memory: bool
    threads: int
    max_rows: int

    def copies(self, layer_bytes: float) -> int:
        """Layers of one run, whose weights have so many bytes each."""
        if self.in_memory:
            return max(1, -(-4 * last_cache() // int(layer_bytes)))
        return _SMALL_COPIES if _SMALL_COPIES * self.shape.weights <= last_cache() // 4 else 1


def leaves_caches(shape: Shape) -> bool:
    """Whether a reasonable number of copies of the smallest weights (one bit) fills the last cache several times."""
    return _MOST_COPIES * shape.weights // 8 >= 4 * last_cache()


def last_cache() -> int:
    """Bytes of the last-level cache."""
    found = [_LAST_CACHE]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        found.append(int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0))
    return max(found)


@dataclass(frozen=True)
class Loaded:
    """Layers ready to run. layer_bytes: of the weights of one, scales included.  kernel: what computes them.

    dense: f32 [DISTINCT_ROWS, k], the weights that are stored.  run: from `copies` inputs [m, k] to as many results."""

    layer_bytes: float
    copies: int
    dense: np.ndarray
    run: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
    kernel: str = ""


@dataclass(frozen=True)
class System:
    """One way to store and multiply weights. load: raises ModuleNotFoundError where a package is absent.

    tolerance: how far results may be from those of the stored weights in floats, relative to the largest."""

    name: str
    encoding: str
    load: Callable[[Work], Loaded]
    tolerance: float


def inputs(work: Work, rows: int, copies: int) -> Arrays:
    """Activations [rows, k] for each layer."""
    generator = np.random.default_rng(1)
    return [generator.standard_normal((rows, work.shape.k)).astype(np.float32) for _ in range(copies)]


def check(system: System, loaded: Loaded, values: Arrays, work: Work) -> None:
    """Raises ValueError where results of the first layer are not those of its weights."""
    expected = values[0] @ loaded.dense.T
    got = np.asarray(loaded.run(values)[0]).reshape(len(expected), work.shape.n)
    columns = np.arange(work.shape.n) % len(loaded.dense)
    apart = float(np.abs(got - expected[:, columns]).max() / np.abs(expected).max())
    if not apart <= system.tolerance:
        raise ValueError(f"{system.name} {system.encoding} {work.shape}: results differ by {apart:g}")
