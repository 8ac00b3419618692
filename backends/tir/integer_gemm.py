"""Products of eight-bit rows with unpacked integer weights: dot products of runs.

On x86 by vpmaddwd, which adds products of pairs of 16-bit integers in 32 bits; elsewhere by a plain loop, of which LLVM
makes vectors (on ARM with dotprod sdot)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from nomul.backends.mathlib import fma
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.dot import pair_sums
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.output import Part
from nomul.backends.tir.quantise import sum_type
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.scratch import Region, Scratch
from nomul.backends.tir.unpack import TermCodes
from nomul.backends.tir.vectors import lanes_at, load, spread

Expr = Any
_COLUMNS = 4  # that share the loads of a row


class IntegerProduct:
    """Make it outside of loops: it owns the accumulators. most: rows of a tile."""

    def __init__(self, terms: Sequence[TermCodes], depth: int, most: int, scratch: Scratch, target: Target) -> None:
        self._terms, self._depth = terms, depth
        is_split = any(part.side.column is not None for part in terms)
        self._ordered = scratch.region("int8", most * depth) if is_split else None
        kinds = {sum_type(part.term.largest, part.side.size) for part in terms}
        self._sums = {kind: local(f"sums_{kind}", kind, _COLUMNS) for kind in sorted(kinds)}
        self._totals = local("totals", "float32", _COLUMNS)
        self._pairs = target.arch == "x86_64" and target.vector_bytes > 0
        self._lanes = target.vector_bytes // 2
        if self._pairs:
            self._vectors = local("vectors", "int32", _COLUMNS * self._lanes // 2)
            self._scaled = local("scaled", "float32", _COLUMNS * self._lanes // 2)

    def emit(self, rows: Rows, part: Part, target: Region, row_scale: Callable[[Expr], Expr]) -> None:
        """f32 sums into `target` [rows, 32], scaled by their row's scale."""
        if self._ordered is not None:
            rows = self._reorder(rows, part.count, self._ordered)
        with loop("row", part.count) as row:
            start = let("start", rows.start + row * rows.stride)
            scale = row_scale(row)
            with loop("four", tirx.truncdiv(part.used + (_COLUMNS - 1), index(_COLUMNS))) as four:
                column = let("column", four * _COLUMNS)
                self._clear()
                for term in self._terms:
                    self._add(rows.buffer, let("q", start + term.offset), term, column)
                for lane in range(_COLUMNS):
                    place = row * PANEL + column + (target.start + lane)
                    store(target.buffer, place, self._total(lane) * scale)

    def _add(self, q: Any, start: Expr, part: TermCodes, column: Expr) -> None:
        """One term of four columns, group by group."""
        side = part.side
        kind = sum_type(part.term.largest, side.size)
        codes = [let("codes", (column + lane) * side.columns + part.codes.start) for lane in range(_COLUMNS)]
        with loop("group", side.groups) as group:
            first = let("first", group * side.size)
            runs = [let("run", code + first) for code in codes]
            scales = let("scales", group * PANEL + column + part.scales.start)
            done = side.size // self._lanes * self._lanes if self._pairs and self._is_narrow(part, kind) else 0
            if done:
                self._add_vectors(q, let("q", start + first), part, runs, scales, done)
            if done < side.size:
                self._add_rest(q, let("q", start + first), part, runs, scales, done)

    @staticmethod
    def _is_narrow(part: TermCodes, kind: str) -> bool:
        return kind == "int32" and part.term.largest < 2**15

    def _add_rest(self, q: Any, start: Expr, part: TermCodes, runs: Sequence[Expr], scales: Expr, done: int) -> None:
        """The places of a group from `done` on."""
        size = part.side.size
        kind = sum_type(part.term.largest, size)
        sums = self._sums[kind]
        for lane in range(_COLUMNS):
            store(sums, lane, tirx.const(0, kind))
        with loop("step", size - done, done) as step:
            activation = let("activation", tirx.Cast(kind, q[start + step]))
            for lane, run in enumerate(runs):
                code = tirx.Cast(kind, part.codes.buffer[run + step])
                store(sums, lane, sums[lane] + activation * code)
        for lane in range(_COLUMNS):
            product = let("product", tirx.Cast("float32", sums[lane]) * part.scales.buffer[scales + lane])
            store(self._totals, lane, self._totals[lane] + product)

    def _add_vectors(self, q: Any, start: Expr, part: TermCodes, runs: Sequence[Expr], scales: Expr, done: int) -> None:
        """The first `done` places of a group, a whole number of vectors.

        The exact integers of each lane become floats and are scaled apart; lanes are added once, behind all groups."""
        lanes, half = self._lanes, self._lanes // 2
        places = [lanes_at(lane * half, half) for lane in range(_COLUMNS)]
        for place in places:
            store(self._vectors, place, spread(tirx.IntImm("int32", 0), half))
        with loop("chunk", done // lanes) as chunk:
            offset = let("offset", chunk * lanes)
            activations = let("activations", tirx.Cast(f"int16x{lanes}", load(q, start + offset, lanes)))
            for place, run in zip(places, runs, strict=True):
                weights = tirx.Cast(f"int16x{lanes}", load(part.codes.buffer, run + offset, lanes))
                total = tirx.BufferLoad(self._vectors, [place])
                store(self._vectors, place, total + pair_sums(activations, weights))
        for lane, place in enumerate(places):
            sums = tirx.Cast(f"float32x{half}", tirx.BufferLoad(self._vectors, [place]))
            scale = spread(part.scales.buffer[scales + lane], half)
            store(self._scaled, place, fma(sums, scale, tirx.BufferLoad(self._scaled, [place])))

    def _clear(self) -> None:
        for lane in range(_COLUMNS):
            store(self._totals, lane, tirx.FloatImm("float32", 0.0))
            if self._pairs:
                half = self._lanes // 2
                store(self._scaled, lanes_at(lane * half, half), spread(tirx.FloatImm("float32", 0.0), half))

    def _total(self, lane: int) -> Expr:
        """The sum of one column: that of its lanes as a tree, and what was added apart."""
        if not self._pairs:
            return self._totals[lane]
        width, first = self._lanes // 4, lane * (self._lanes // 2)
        while width:
            low, high = (tirx.BufferLoad(self._scaled, [lanes_at(first + at, width)]) for at in (0, width))
            store(self._scaled, lanes_at(first, width), low + high)
            width //= 2
        return self._totals[lane] + self._scaled[first]

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
