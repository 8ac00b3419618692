"""What the driver generator needs to know of a compiled module: ports, arena slots, steps, weights, kernels per level.

A Plan is the last thing made of IR; `backends/driver.py` turns it into C, and knows nothing of ops.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from nomul.ir.dim import Dim, Range
from nomul.ir.types import DType


@dataclass(frozen=True)
class Port:
    """An input or output of the model. name: as in the source model; shape: symbolic sizes."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Location:
    """Where a kernel argument lives: in a port, an arena slot, or the weights; `offset` bytes from its start."""

    kind: Literal["input", "output", "slot", "weight"]
    index: int = 0
    offset: Dim = field(default_factory=lambda: Dim.of(0))


@dataclass(frozen=True)
class Step:
    """One kernel call: `int32_t symbol(args..., dims..., int64 begin, int64 end, void *scratch)`.

    tiles: how many tiles the range [0, tiles) has; the pool splits it.  grain: the fewest tiles worth a thread.
    scratch: bytes per thread.  comment: one line for the reader of model.c (value, op, source layer).
    """

    symbol: str
    args: tuple[Location, ...]
    dims: tuple[str, ...]
    tiles: Dim
    grain: int = 1
    scratch: Dim = field(default_factory=lambda: Dim.of(0))
    comment: str = ""


@dataclass(frozen=True)
class Level:
    """The kernels of one instruction set: symbols carry the suffix `__<name>`; `object` is a relocatable file.

    features: names that the runtime's CPU check knows, all needed (for example ("avx2", "fma", "f16c")).
    borrowed: symbols, without suffix, of kernels that are not in the object, and the level whose code they run.
    object is empty where all are borrowed.
    """

    name: str
    features: tuple[str, ...]
    object: bytes
    borrowed: Mapping[str, str] = field(default_factory=dict)

    def owner(self, symbol: str) -> str:
        """The level whose code of this kernel runs here."""
        return self.borrowed.get(symbol, self.name)


@dataclass(frozen=True)
class Plan:
    """A whole artifact before linking. levels: best first; the first whose features the CPU has is used.

    slots: for each arena slot the byte sizes of the values that live there; its size is their maximum.
    dims: ranges of all named dims; each is bound by an input's shape.  weights: the blob, each field 64-byte aligned.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    dims: dict[str, Range]
    slots: tuple[tuple[Dim, ...], ...]
    steps: tuple[Step, ...]
    weights: bytes
    levels: tuple[Level, ...]
    target: str
