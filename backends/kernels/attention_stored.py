"""nn.attention_parts of keys and values that are stored as codes of 8 or 4 bits and a scale for each vector.

Codes become f32 as they are read, a quarter or an eighth of the bytes; a key's scale multiplies its score, a value's
its weight. Two codes of a byte are elements of the two halves of a vector, so that each half is a run of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tvm import tirx

from nomul.backends.attention_span import SCALES
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import attention
from nomul.backends.kernels.attention_few import KEYS, Parts, built_parts, refused_rows
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import let, local, loop, store
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector, zeros
from nomul.ir.graph import Node
from nomul.ir.types import DType
from nomul.ir.views import View

_CELLS = 8  # vectors of sums in registers
_NIBBLE = 8  # what is added to a code of four bits

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    scales = [anchor.operand(SCALES + i) for i in range(2)]
    if None in scales:
        return "keys and values are not stored as codes"
    if any(scale not in group.func.params for scale in scales):
        return "scales are seen through a view"
    return attention.refused_operands(group, (DType.F32, DType.I8, DType.U8)) or refused_rows(anchor)


@kernel("nn.attention_parts", accepts=refusal, rank=30)
def stored(group: Group, target: Target) -> Built:
    """One tile for each run of keys of each batch element, of all heads where those of a token are neighbours."""
    return built_parts(group, target, StoredParts)


class StoredParts(Parts):
    """halves: elements of a byte."""

    def __init__(self, frame: KernelFrame, anchor: Node, together: int) -> None:
        super().__init__(frame, anchor, together)
        k, k_scale, v_scale = anchor.args[1], anchor.operand(SCALES), anchor.operand(SCALES + 1)
        assert k is not None and k_scale is not None and v_scale is not None
        self.halves, self._k_scale, self._v_scale = 2 if k.dtype is DType.U8 else 1, k_scale, v_scale

    def emit(self) -> None:
        self._cells = local("cells", "float32", _CELLS * self.lanes)
        super().emit()

    def _restored(self, score: Expr, key: Expr, own: Expr) -> Expr:
        return bind(score * self.frame.read(self._k_scale, (self.batch, key, self.first_head + own)))

    def _dots(self, base: Expr, rows: list[Expr]) -> list[Expr]:
        for i in range(len(rows)):
            store(self.registers, self._part(i), zeros(self.lanes))
        bytes = self.depth // self.halves
        whole = bytes // self.lanes * self.lanes
        with loop("d", whole // self.lanes) as piece:
            d = let("d", piece * self.lanes)
            for offset, element in self._codes(self.k, base + d, bytes, self.lanes):
                for i, row in enumerate(rows):
                    self._add(i, element, load(self.work, d + row * self.depth + offset, self.lanes))
        sums = self.sums_of_registers(len(rows))
        for d in range(whole, bytes):
            for offset, element in self._codes(self.k, base + d, bytes, 1):
                queries = [self.work[row * self.depth + (d + offset)] for row in rows]
                sums = [bind(fma(element, query, sum)) for query, sum in zip(queries, sums, strict=True)]
        return sums

    def _codes(self, view: View, place: Expr, bytes: int, lanes: int) -> list[tuple[int, Expr]]:
        """(offset in the vector, f32 codes) of what is stored from a place on."""
        raw = bind(load(self.frame.buffer(view.source), place, lanes))
        kind = f"float32x{lanes}" if lanes > 1 else "float32"
        if self.halves == 1:
            return [(0, bind(tirx.Cast(kind, raw)))]
        wide = bind(tirx.Cast(kind.replace("float", "int"), raw))
        mask, four, bias = (spread(tirx.const(number, "int32"), lanes) for number in (15, 4, _NIBBLE))
        nibbles = tirx.bitwise_and(wide, mask), tirx.shift_right(wide, four)
        return [(bytes * i, bind(tirx.Cast(kind, bind(nibble - bias)))) for i, nibble in enumerate(nibbles)]

    def _weigh(self, first: Expr, count: Expr) -> None:
        """A head at a time: the block's values of all heads are in the cache once the first has been read."""
        with loop("key", count) as key, loop("own", self.together) as own:
            values = let("values", self._at(self.v, self.batch, first + key, self.first_head + own, 0))
            prefetch(self.frame.buffer(self.v.source), values, self.width // self.halves, 2)
            scale = bind(self.frame.read(self._v_scale, (self.batch, first + key, self.first_head + own)))
            with loop("row", self.rows) as row:
                place = let("place", (own * self.rows + row) * KEYS + self.scores + key)
                store(self.work, place, self.work[place] * scale)
        bytes = self.width // self.halves
        whole = bytes // self.lanes * self.lanes
        with loop("own", self.together) as own:
            base = let("v_base", self._at(self.v, self.batch, first, self.first_head + own, 0))
            for rows in self._groups(own):
                columns = max(1, _CELLS // (2 * len(rows) * self.halves))
                wide = whole // (columns * self.lanes) * (columns * self.lanes)
                for span, lanes in (
                    (range(0, wide, columns * self.lanes), self.lanes),
                    (range(wide, whole, self.lanes), self.lanes),
                    (range(whole, bytes), 1),
                ):
                    self._weigh_bytes(base, count, rows, span, lanes)

    def _weigh_bytes(self, base: Expr, count: Expr, rows: list[Expr], span: range, lanes: int) -> None:
        """Some bytes of the values for some rows, in steps of the span, which are vectors of `lanes` side by side."""
        bytes, stride = self.width // self.halves, self.frame.size(self.v.strides[1])
        columns = range(0, span.step, lanes)
        with loop("piece", len(span)) as piece:
            e = let("e", piece * span.step + span.start)
            cells = list(self._places(rows, e, columns, bytes))
            for i, (row, _, place) in enumerate(cells):
                shrink = spread(self.work[self._state(row) + 2], lanes)
                store(self._cells, self._part(i, lanes), load(self.work, place, lanes) * shrink)
            with loop("key", count) as key:
                start = let("start", base + key * stride + e)
                codes = [code for c in columns for _, code in self._codes(self.v, start + c, bytes, lanes)]
                for i, (row, number, _) in enumerate(cells):
                    weight = spread(self.work[row * KEYS + self.scores + key], lanes)
                    sums = tirx.BufferLoad(self._cells, [self._part(i, lanes)])
                    store(self._cells, self._part(i, lanes), fma(codes[number], weight, sums))
            for i, (_, _, place) in enumerate(cells):
                store_vector(self.work, place, tirx.BufferLoad(self._cells, [self._part(i, lanes)]))

    def _places(self, rows: list[Expr], e: Expr, columns: range, bytes: int) -> Iterator[tuple[Expr, int, Expr]]:
        """(row, number of its vector of codes, where its sums stand)."""
        for row in rows:
            for number, offset in enumerate(c + bytes * half for c in columns for half in range(self.halves)):
                yield row, number, let("place", row * self.width + self.sums + e + offset)
