"""Kernels: builders of TVM PrimFuncs, each declared beside its siblings in `backends/kernels/`, found by themselves.

Selection is in `backends/select.py`; the plain C interface of a kernel is described in `docs/kernels.md`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nomul.backends.group import Group
from nomul.ir.dim import Dim
from nomul.ir.registry import Registry

if TYPE_CHECKING:
    from nomul.backends.target import Target


@dataclass(frozen=True)
class Built:
    """What a kernel builder returns.

    function: the TIRx PrimFunc with the kernel interface.  tiles: the parallel range [0, tiles), a Dim.
    grain: fewest tiles worth handing to a thread.  scratch: bytes per thread.  layouts: for each weight parameter
    (by position) that is not read as its encoding's plain fields, the name of a layout in `backends/layouts/`.
    inplace: positions of parameters that may share memory with the only result."""

    function: Any
    tiles: Dim
    grain: int = 1
    scratch: Dim = field(default_factory=lambda: Dim.of(0))
    layouts: dict[int, str] = field(default_factory=dict)
    inplace: tuple[int, ...] = ()


Build = Callable[[Group, "Target"], Built]
Cost = Callable[[Group, "Target", int], float]


@dataclass(frozen=True)
class Kernel:
    """op: the anchor op it serves ("*" = any group, "" = one without an anchor).
    encoding: of the anchor's weight operand (None: dense).  needs: target features, all required.
    uses: further features that the builder looks at; of those that a level adds to its base, it sees no others.
    accepts: a reason why a group is refused, or None.  rank: higher wins; 0 is for
    plain loops without vectors, which serve portable C too.  cost: cycles at a number of rows for a group that is not
    refused; of one rank the least estimate wins (`backends/cost.py`)."""

    name: str
    op: str
    encoding: str | None
    needs: frozenset[str]
    uses: frozenset[str]
    accepts: Callable[[Group], str | None]
    rank: int
    build: Build
    cost: Cost | None = None


_KERNELS: Registry[str, Kernel] = Registry("nomul.backends.kernels", "kernel {}")
_LABELS = {"*": "any", "": "ew"}


def kernel(
    op: str,
    *,
    encoding: str | None = None,
    needs: tuple[str, ...] = (),
    uses: tuple[str, ...] = (),
    accepts: Callable[[Group], str | None] = lambda group: None,
    rank: int = 0,
    cost: Cost | None = None,
) -> Callable[[Build], Kernel]:
    """Declare a kernel. Its name is `op/encoding/function` (encoding "f32" for dense)."""

    def declare(build: Build) -> Kernel:
        name = f"{_LABELS.get(op, op)}/{encoding or 'f32'}/{build.__name__}"
        features = frozenset(needs), frozenset(uses)
        return _KERNELS.add(name, Kernel(name, op, encoding, *features, accepts, rank, build, cost))

    return declare


def all_kernels() -> dict[str, Kernel]:
    """Every kernel by name."""
    return _KERNELS.all()
