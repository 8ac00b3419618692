"""Products of eight-bit rows with unpacked integer weights: dot products of runs, of which LLVM makes vectors (with
dotprod sdot)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.output import Part
from nomul.backends.tir.quantise import sum_type
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.scratch import Region, Scratch
from nomul.backends.tir.unpack import TermCodes

Expr = Any
_COLUMNS = 4  # that share the loads of a row


class IntegerProduct:
    """Make it outside of loops: it owns the accumulators. most: rows of a tile."""

    def __init__(self, terms: Sequence[TermCodes], depth: int, most: int, scratch: Scratch) -> None:
        self._terms, self._depth = terms, depth
        is_split = any(part.side.column is not None for part in terms)
        self._ordered = scratch.region("int8", most * depth) if is_split else None
        kinds = {sum_type(part.term.largest, part.side.size) for part in terms}
        self._sums = {kind: local(f"sums_{kind}", kind, _COLUMNS) for kind in sorted(kinds)}
        self._totals = local("totals", "float32", _COLUMNS)

    def emit(self, rows: Rows, part: Part, target: Region, row_scale: Callable[[Expr], Expr]) -> None:
        """f32 sums into `target` [rows, 32], scaled by their row's scale."""
        if self._ordered is not None:
            rows = self._reorder(rows, part.count, self._ordered)
        with loop("row", part.count) as row:
            start = let("start", rows.start + row * rows.stride)
            scale = row_scale(row)
            with loop("four", tirx.truncdiv(part.used + (_COLUMNS - 1), index(_COLUMNS))) as four:
                column = let("column", four * _COLUMNS)
                for lane in range(_COLUMNS):
                    store(self._totals, lane, tirx.FloatImm("float32", 0.0))
                for term in self._terms:
                    self._add(rows.buffer, let("q", start + term.offset), term, column)
                for lane in range(_COLUMNS):
                    place = row * PANEL + column + (target.start + lane)
                    store(target.buffer, place, self._totals[lane] * scale)

    def _add(self, q: Any, start: Expr, part: TermCodes, column: Expr) -> None:
        """One term of four columns, group by group."""
        side = part.side
        kind = sum_type(part.term.largest, side.size)
        sums = self._sums[kind]
        codes = [let("codes", (column + lane) * side.columns + part.codes.start) for lane in range(_COLUMNS)]
        with loop("group", side.groups) as group:
            first = let("first", group * side.size)
            for lane in range(_COLUMNS):
                store(sums, lane, tirx.const(0, kind))
            with loop("step", side.size) as step:
                activation = let("activation", tirx.Cast(kind, q[start + first + step]))
                for lane in range(_COLUMNS):
                    code = tirx.Cast(kind, part.codes.buffer[codes[lane] + first + step])
                    store(sums, lane, sums[lane] + activation * code)
            scales = let("scales", group * PANEL + column + part.scales.start)
            for lane in range(_COLUMNS):
                product = let("product", tirx.Cast("float32", sums[lane]) * part.scales.buffer[scales + lane])
                store(self._totals, lane, self._totals[lane] + product)

    def _reorder(self, rows: Rows, count: Expr, region: Region) -> Rows:
        """The rows with the columns of each side together."""
        sides = {part.offset: part.side for part in self._terms}
        for offset, side in sides.items():
            with loop("place", side.columns) as place:
                source = let("source", rows.start + (side.column(place) if side.column else place))
                with loop("row", count) as row:
                    target = row * self._depth + place + (region.start + offset)
                    store(region.buffer, target, rows.buffer[source + row * rows.stride])
        return Rows(region.buffer, index(region.start), self._depth)
