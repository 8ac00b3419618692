"""Eight-bit rows made ready for dot products: sums by group, and copies with padded groups where those are needed.

A thread prepares a block of rows once and keeps it while it goes through all panels of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.shape import DotShape
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.dot import Dot
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.row_source import RowSource
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import lanes_at, load, spread

Expr = Any


@dataclass(frozen=True)
class DotRows:
    """Rows [groups, padded columns of a group], and the sum of each group: sums[row, group], or None."""

    rows: Rows
    sums: Any
    first: Expr
    groups: int

    def sum(self, row: Expr, group: Expr) -> Expr:
        """int32."""
        return self.sums[self.first + row * self.groups + group]

    def behind(self, count: Expr) -> DotRows:
        """Without the first ones."""
        rows = Rows(self.rows.buffer, let("q", self.rows.start + count * self.rows.stride), self.rows.stride)
        return DotRows(rows, self.sums, let("sums", self.first + count * self.groups), self.groups)


class PreparedRows:
    """most: rows of a block.  with_sums: whether sums are asked for.  slack: bytes behind a row that are read in vain.
    Make it outside of loops."""

    def __init__(
        self,
        source: RowSource,
        shape: DotShape,
        scratch: Scratch,
        target: Target,
        most: int,
        with_sums: bool,
        slack: int = 0,
    ) -> None:
        self._source, self._shape = source, shape
        width = next(w for w in (64, 32, 16) if w <= target.vector_bytes and (shape.padded % w == 0 or w == 16))
        self._dot = Dot(target, wide=False, width=width)
        size = most * shape.groups * shape.padded + slack
        self._copies = scratch.region("int8", size) if shape.is_padded or slack else None
        self._sums = scratch.region("int32", most * shape.groups) if with_sums else None
        self._total = local("group_sum", "int32", self._dot.lanes)

    def prepare(self, first: Expr, count: Expr) -> DotRows:
        """Rows [first, first + count)."""
        rows = self._source.fetch(first, count)
        if self._copies is not None:
            rows = self._padded(rows, count)
        return self._with_sums(rows, count)

    def again(self, first: Expr) -> DotRows:
        """The rows that were prepared last, whose first one is row `first` of all."""
        if self._copies is not None:
            return self._made(self._copy_rows())
        return self._made(self._source.fetched(first))

    def _copy_rows(self) -> Rows:
        assert self._copies is not None
        return Rows(self._copies.buffer, index(self._copies.start), self._shape.groups * self._shape.padded)

    def _made(self, rows: Rows) -> DotRows:
        buffer, start = (self._sums.buffer, self._sums.start) if self._sums else (None, 0)
        return DotRows(rows, buffer, index(start), self._shape.groups)

    def _padded(self, rows: Rows, count: Expr) -> Rows:
        shape, target = self._shape, self._copy_rows()
        with loop("row", count) as row, loop("group", shape.groups) as group:
            source = let("source", rows.start + row * rows.stride + group * shape.size)
            copy = let("copy", target.start + row * target.stride + group * shape.padded)
            with loop("place", shape.size) as place:
                store(target.buffer, copy + place, rows.buffer[source + place])
            with loop("place", shape.padded - shape.size, shape.size) as place:
                store(target.buffer, copy + place, tirx.const(0, "int8"))
        return target

    def _with_sums(self, rows: Rows, count: Expr) -> DotRows:
        made, shape = self._made(rows), self._shape
        if self._sums is None:
            return made
        with loop("row", count) as row, loop("group", shape.groups) as group:
            start = let("start", rows.start + row * rows.stride + group * shape.padded)
            store(made.sums, made.first + row * shape.groups + group, self._group_sum(rows.buffer, start))
        return made

    def _group_sum(self, buffer: Any, start: Expr) -> Expr:
        """The sum of a padded group of one row."""
        dot, all_lanes = self._dot, lanes_at(0, self._dot.lanes)
        store(self._total, all_lanes, spread(tirx.const(0, "int32"), dot.lanes))
        whole = self._shape.padded // dot.width
        if whole:
            with loop("vector", whole) as vector:
                q = tirx.reinterpret(f"int32x{dot.lanes}", load(buffer, start + vector * dot.width, dot.width))
                store(self._total, all_lanes, dot.add(tirx.BufferLoad(self._total, [all_lanes]), dot.ones(), q))
        lanes = dot.lanes // 2
        while lanes:
            low, high = (tirx.BufferLoad(self._total, [lanes_at(at, lanes)]) for at in (0, lanes))
            store(self._total, lanes_at(0, lanes), low + high)
            lanes //= 2
        with loop("place", self._shape.padded - whole * dot.width, whole * dot.width) as place:
            store(self._total, 0, self._total[0] + tirx.Cast("int32", buffer[start + place]))
        return self._total[0]
