"""nn.attention_parts of keys and values that are stored as codes of 8 or 4 bits and a scale for each vector.

Codes become f32 as they are read, a quarter or an eighth of the bytes; a key's scale multiplies its score, a value's
its weight. Two codes of a byte are elements of the two halves of a vector, so that each half is a run of bytes.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

from tvm import tirx

from nomul.backends.attention_span import SCALES
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import attention
from nomul.backends.kernels.attention_few import KEYS, Parts, built_parts, refused_rows, sum_of_lanes
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector
from nomul.ir.graph import Node
from nomul.ir.types import DType
from nomul.ir.views import View

_TOGETHER = 4  # keys whose values are added at a time
_CHAINS = 4  # independent sums of one product
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

    def _restored(self, score: Expr, key: Expr, own: Expr) -> Expr:
        values = let("values", self._at(self.v, self.batch, key, self.first_head + own, 0))
        prefetch(self.frame.buffer(self.v.source), values, self.width // self.halves, 2)
        return bind(score * self.frame.read(self._k_scale, (self.batch, key, self.first_head + own)))

    def _dots(self, base: Expr, rows: list[Expr]) -> list[Expr]:
        """Products of one key with some rows, all vectors of it side by side: few enough for registers."""
        bytes = self.depth // self.halves
        whole = bytes // self.lanes * self.lanes
        products: list[list[Expr]] = [[] for _ in rows]
        for d in range(0, whole, self.lanes):
            for offset, element in self._codes(self.k, base + d, bytes, self.lanes):
                for row, parts in zip(rows, products, strict=True):
                    query = load(self.work, row * self.depth + (d + offset), self.lanes)
                    at_once = len(parts) < _CHAINS
                    parts.append(bind(element * query if at_once else fma(element, query, parts[-_CHAINS])))
        zero = tirx.FloatImm("float32", 0.0)
        sums = [sum_of_lanes(reduce(operator.add, parts[-_CHAINS:])) if parts else zero for parts in products]
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
        """In the order of memory, a few keys at a time, for which a sum is loaded and stored once."""
        self.shrink_sums()
        whole = let("whole", tirx.truncdiv(count, index(_TOGETHER)))
        with loop("keys", whole) as keys:
            self._add_values(first, let("key", keys * _TOGETHER), _TOGETHER)
        with loop("key", count - whole * _TOGETHER, whole * _TOGETHER) as key:
            self._add_values(first, key, 1)

    def _add_values(self, first: Expr, key: Expr, count: int) -> None:
        """Sums of all rows grow by the values of `count` keys. key: of the block that begins with key `first`."""
        bytes = self.width // self.halves
        whole = bytes // self.lanes * self.lanes
        with loop("own", self.together) as own:
            head, keys = let("v_head", self.first_head + own), [let("v_key", first + key + i) for i in range(count)]
            bases = [let("v_base", self._at(self.v, self.batch, place, head, 0)) for place in keys]
            scales = [bind(self.frame.read(self._v_scale, (self.batch, place, head))) for place in keys]
            for place in keys:
                next_row = let("next_row", self._at(self.k, self.batch, place + KEYS, head, 0))
                prefetch(self.frame.buffer(self.k.source), next_row, self.depth // self.halves, 2)
            for rows in self._groups(own):
                weights = [
                    [bind(self.work[row * KEYS + self.scores + key + i] * scale) for i, scale in enumerate(scales)]
                    for row in rows
                ]
                for span, lanes in ((range(0, whole, self.lanes), self.lanes), (range(whole, bytes), 1)):
                    with loop("piece", len(span)) as piece:
                        e = let("e", piece * lanes + span.start)
                        codes = [self._codes(self.v, base + e, bytes, lanes) for base in bases]
                        self._add_codes(e, codes, rows, weights)

    def _add_codes(
        self, e: Expr, codes: list[list[tuple[int, Expr]]], rows: list[Expr], weights: list[list[Expr]]
    ) -> None:
        """Codes of some keys at the same place times each row's weights."""
        for of_keys in zip(*codes, strict=True):
            offset, lanes = of_keys[0][0], int(of_keys[0][1].ty.dtype.lanes)
            for row, of_row in zip(rows, weights, strict=True):
                place = let("place", row * self.width + self.sums + e + offset)
                total = load(self.work, place, lanes)
                for (_, code), weight in zip(of_keys, of_row, strict=True):
                    total = bind(fma(code, spread(weight, lanes), total))
                store_vector(self.work, place, total)
