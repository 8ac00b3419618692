"""Finished sums on their way to the result: bias, the fused element-wise nodes, and the store, a vector at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue, lanes_of, widen
from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import buffer_at, index, let, loop, when
from nomul.backends.tir.gemm import InnerKernel, Panel, Product, Reduction, Rows
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.vectors import lanes_at, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value

Expr = Any
_CHEAP = frozenset({"ew.add", "ew.sub", "ew.mul", "ew.neg", "ew.abs", "ew.max", "ew.min", "ew.clip", "ew.relu"})
_MOST_CHEAP = 4
_ROWS_TOGETHER = 8  # of a result with one column: divides the rows of a tile


@dataclass(frozen=True)
class Place:
    """Where a row of the result is. flat: offset of its first element.  lead: its index on all axes but the last."""

    flat: Expr
    lead: Callable[[], tuple[Expr, ...]]


@dataclass(frozen=True)
class Part:
    """A part of the result: rows [0, count), each at `place(row)`, of columns [column, column + used) of one panel.

    step: elements of the result from one row to the next."""

    count: Expr
    place: Callable[[Expr], Place]
    step: Expr | int
    column: Expr
    used: Expr


class Output:
    """The result of a kernel whose last axis is computed panel by panel. bias: a parameter [N] or None.

    lanes: f32 per vector.  width: columns that a run of panels covers; the rest of its last panel is unused.
    panel: columns of a panel.  sums: scratch from its start on, for rows of sums that are not finished in registers."""

    def __init__(
        self, kernel: KernelFrame, anchor: Node, bias: Value | None, lanes: int, width: Dim, panel: int = PANEL
    ) -> None:
        self.kernel = kernel
        self.bias = bias
        self.lanes = lanes
        self.anchor = anchor.result
        self.epilogue = Epilogue(kernel.group, anchor.result)
        self.width, self.panel = width, panel
        self.sums = buffer_at("sums", "float32", kernel.scratch)

    @property
    def is_short(self) -> bool:
        """Whether the code that finishes a vector is short enough to repeat it for each vector in registers."""
        chain = [node for node in self.kernel.group.func.nodes if node.op.startswith("ew.")]
        short = len(chain) <= _MOST_CHEAP and all(node.op in _CHEAP for node in chain)
        return short and not self._needs_lead

    @property
    def _needs_lead(self) -> bool:
        """Whether an operand of the element-wise nodes varies over the leading axes, but is smaller than the result."""
        operands = {
            arg
            for node in self.kernel.group.func.nodes
            if node.op.startswith("ew.")
            for arg in node.args
            if arg is not None and arg.producer is None and not isinstance(arg, Constant)
        }
        return any(
            arg.shape != self.anchor.shape and any(size != Dim.of(1) for size in arg.shape[:-1]) for arg in operands
        )

    def write(self, place: Place, column: Expr, sums: Expr) -> None:
        """Finish and store one vector (or scalar) of sums, that of `column` and those behind it."""
        lanes = int(sums.ty.dtype.lanes)
        lead = place.lead() if self._needs_lead else (index(0),) * (len(self.anchor.shape) - 1)
        self._finish(lanes_at(place.flat + column, lanes), (*lead, lanes_at(column, lanes)), sums)

    def _finish(self, flat: Expr, where: tuple[Expr, ...], sums: Expr) -> None:
        """flat: the places in the result.  where: their index along each axis."""
        if self.bias is not None:
            sums = sums + widen(self.kernel.read(self.bias, where[-1:]), lanes_of(sums))

        def load(param: Value, at: tuple[Expr, ...]) -> Expr:
            full = param.shape == self.anchor.shape
            return self.kernel.read_flat(param, flat) if full else self.kernel.read(param, at)

        self.kernel.write_flat(0, flat, self.epilogue.apply(let("sums", sums), where, load))

    def multiply(self, inner: InnerKernel, part: Part, rows: Rows, panel: Panel, over: Reduction) -> None:
        """Compute a part of the result: `rows` times `panel`."""

        def direct(row: Expr, offset: Expr, sums: Expr) -> None:
            self.write(part.place(row), part.column + offset, sums)

        def aside(row: Expr, offset: Expr, sums: Expr) -> None:
            store_vector(self.sums, row * self.panel + offset, sums)

        is_direct = self.is_short and inner.tile.fills(self.width.value)
        inner.block(part.count, part.used, Product(rows, panel, over, direct if is_direct else aside))
        if not is_direct:
            self.write_rows(part)

    def write_rows(self, part: Part, first: Expr | int = 0, scale: Callable[[Expr], Expr] | None = None) -> None:
        """Finish a part whose sums stand in `sums` from `first` on, a panel to a row; scale: factor of all of a row."""
        done = index(0)
        if self.width == Dim.of(1) and not self._needs_lead and scale is None:
            done = self._write_column(part)
        with loop("row", part.count - done, done) as row:
            target, base = part.place(row), let("base", row * self.panel + first)
            factor = scale(row) if scale else None
            for column, lanes in column_pieces(self.width, self.lanes, self.panel, part.used):
                with column as offset:
                    sums = tirx.BufferLoad(self.sums, [lanes_at(base + offset, lanes)])
                    sums = sums if factor is None else sums * spread(factor, lanes)
                    self.write(target, let("column", part.column + offset), sums)

    def _write_column(self, part: Part) -> Expr:
        """Whole vectors of rows of a result with one column; how many rows that are."""
        lanes = min(self.lanes, _ROWS_TOGETHER)
        vectors = let("vectors", tirx.truncdiv(part.count, index(lanes)))
        with loop("vector", vectors) as number:
            row = let("row", number * lanes)
            sums = tirx.BufferLoad(self.sums, [tirx.Ramp(row * self.panel, index(self.panel), lanes)])
            flat = tirx.Ramp(part.place(row).flat + part.column, index(part.step), lanes)
            self._finish(flat, (index(0),) * len(self.anchor.shape), sums)
        return let("done", vectors * lanes)


def column_pieces(width: Dim, lanes: int, panel: int, used: Expr) -> list[tuple[Any, int]]:
    """Blocks of code that cover the used columns of a panel: (context that gives the offset in the panel, lanes).

    width: columns of all panels together; the last panel is used in part where it is no multiple of `panel`."""
    size = width.value
    if size is not None and size % panel == 0:
        return [(_stepping(index(panel // lanes), lanes, 0), lanes)]
    whole = let("whole", tirx.truncdiv(used, index(lanes)))
    vectors = (_stepping(whole, lanes, 0), lanes)
    if size is None:
        return [vectors, (_stepping(used - whole * lanes, 1, whole * lanes), 1)]
    return [vectors, *_last_columns(size % panel, lanes, used < panel)]


def _last_columns(count: int, lanes: int, is_last: Expr) -> list[tuple[Any, int]]:
    """The columns of the last panel that do not fill a vector of the machine, by narrower vectors."""
    offset = count // lanes * lanes
    pieces = []
    while offset < count:
        while lanes > count - offset:
            lanes //= 2
        pieces.append((_only(is_last, offset), lanes))
        offset += lanes
    return pieces


@contextmanager
def _stepping(count: Expr, step: int, start: Expr | int) -> Iterator[Expr]:
    """Offsets start, start + step, ... , `count` of them."""
    with loop("piece", count) as number:
        yield let("offset", number * step + start)


@contextmanager
def _only(condition: Expr, offset: int) -> Iterator[Expr]:
    """One offset, where the condition holds."""
    with when(condition):
        yield index(offset)
