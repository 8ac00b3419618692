"""nn.attention_parts of keys and values that are stored as codes of 8 or 4 bits and a scale for each vector.

Codes become f32 as they are read, a quarter or an eighth of the bytes; a key's scale multiplies its score, a value's
its weight. Two codes of a byte are elements of the two halves of a vector, so that each half is a run of bytes.
"""

from __future__ import annotations

import operator
from functools import reduce
from typing import Any

import numpy as np
from tvm import tirx

from nomul.backends.attention_span import SCALES
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import attention
from nomul.backends.kernels.attention_few import CHAINS, KEYS, Parts, built_parts, refused_rows
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, loop, store
from nomul.backends.tir.transposition import summed
from nomul.backends.tir.vectors import load, prefetch, spread, store_vector, zeros
from nomul.ir.graph import Node
from nomul.ir.types import DType
from nomul.ir.views import View

_TOGETHER = 4  # keys whose values are added at a time
_SUMS = 2  # independent ones of one product, of as many rows as `CHAINS` at a time
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
        self._partial = self.size  # of some rows and as many keys as a vector has lanes: sums in the lanes
        self._k_scales = self._partial + CHAINS * self.lanes * self.lanes  # of these keys
        self._v_scales = self._k_scales + self.lanes  # of a block: [head][key]
        self.size = self._v_scales + together * KEYS

    def _score(self, first: Expr, count: Expr) -> None:
        """q . k for a block, a head at a time: its keys are in the cache. As many keys as a vector has lanes are summed
        up over the lanes together."""
        groups = tirx.truncdiv(count + (self.lanes - 1), index(self.lanes))
        with loop("own", self.together) as own, loop("group", groups) as group:
            start = let("start", group * self.lanes)
            keys = let("keys", tirx.min(index(self.lanes), count - start))
            for rows in self._groups(own):
                with loop("key", keys) as key:
                    place = let("k", first + start + key)
                    self._multiply(place, own, key, rows)
                    self._note_scales(place, own, (key, start + key))
                for i, row in enumerate(rows):
                    self._keep(i, row * KEYS + self.scores + start)
        if not self._sees_all:
            with loop("row", self.all_rows) as row, loop("key", count) as key:
                place = let("place", row * KEYS + self.scores + key)
                store(self.work, place, self._masked(bind(self.work[place]), row, first + key))
        self._hide(count)

    @property
    def _sees_all(self) -> bool:
        """Whether scores stay as they are."""
        plain = not self.cap and self.mask is None and self.relative is None
        return plain and self.span.is_whole and not self.span.has_first

    def _keep(self, number: int, target: Expr) -> None:
        """Partial sums of a row over their lanes, times the keys' scales; of keys behind the last one anything."""
        start = self._partial + number * self.lanes * self.lanes
        rows = [let("partial", load(self.work, start + key * self.lanes, self.lanes)) for key in range(self.lanes)]
        store_vector(self.work, target, summed(rows) * load(self.work, self._k_scales, self.lanes))

    def _note_scales(self, key: Expr, own: Expr, places: tuple[Expr, Expr]) -> None:
        """Scales of a key and its value as neighbours of those of the next key. places: in a group, in a block."""
        starts = self._k_scales, own * KEYS + self._v_scales
        for operand, start, place in zip((self._k_scale, self._v_scale), starts, places, strict=True):
            store(self.work, start + place, self.frame.read(operand, (self.batch, key, self.first_head + own)))

    def _multiply(self, key: Expr, own: Expr, place: Expr, rows: list[Expr]) -> None:
        """Products of one key with some rows, all vectors of it side by side: few enough for registers."""
        head, bytes = let("k_head", self.first_head + own), self.depth // self.halves
        base = let("k_base", self._at(self.k, self.batch, key, head, 0))
        values = let("values", self._at(self.v, self.batch, key, head, 0))
        prefetch(self.frame.buffer(self.v.source), values, self.width // self.halves, 2)
        whole = bytes // self.lanes * self.lanes
        products: list[list[Expr]] = [[] for _ in rows]
        for d in range(0, whole, self.lanes):
            for offset, element in self._codes(self.k, base + d, bytes, self.lanes):
                for row, parts in zip(rows, products, strict=True):
                    query = load(self.work, row * self.depth + (d + offset), self.lanes)
                    parts.append(bind(element * query if len(parts) < _SUMS else fma(element, query, parts[-_SUMS])))
        targets = [let("target", place * self.lanes + self._partial + i * self.lanes**2) for i in range(len(rows))]
        for target, parts in zip(targets, products, strict=True):
            store_vector(self.work, target, reduce(operator.add, parts[-_SUMS:] or [zeros(self.lanes)]))
        for d in range(whole, bytes):
            for offset, element in self._codes(self.k, base + d, bytes, 1):
                for row, target in zip(rows, targets, strict=True):
                    query = self.work[row * self.depth + (d + offset)]
                    store(self.work, target, fma(element, query, self.work[target]))

    def _codes(self, view: View, place: Expr, bytes: int, lanes: int) -> list[tuple[int, Expr]]:
        """(offset in the vector, f32 codes) of what is stored from a place on."""
        raw = bind(load(self.frame.buffer(view.source), place, lanes))
        kind = f"float32x{lanes}" if lanes > 1 else "float32"
        if self.halves == 1:
            return [(0, bind(tirx.Cast(kind, raw)))]
        wide = bind(tirx.Cast(kind.replace("float", "int"), raw))
        return [(bytes * i, self._nibble(wide, i, kind)) for i in range(2)]

    def _nibble(self, wide: Expr, number: int, kind: str) -> Expr:
        """A nibble as the last bits of a float of 2^23, or 2^19, without a shift: less that and 8 it is the code."""
        power = float(2**23 >> 4 * number)
        lanes = int(wide.ty.dtype.lanes)
        mask, bits = (spread(tirx.IntImm("int32", n), lanes) for n in (15 << 4 * number, _bits_of(power)))
        raised = tirx.reinterpret(kind, tirx.bitwise_or(tirx.bitwise_and(wide, mask), bits))
        return bind(raised - spread(tirx.FloatImm("float32", power + _NIBBLE), lanes))

    def _weigh(self, first: Expr, count: Expr) -> None:
        """In the order of memory, a few keys at a time, for which a sum is loaded and stored once."""
        self.shrink_sums()
        with loop("row", self.all_rows) as row:
            scales = let("scales", tirx.truncdiv(row, index(self.rows)) * KEYS + self._v_scales)
            for part in range(0, KEYS, self.lanes):
                place = let("place", row * KEYS + self.scores + part)
                scale = load(self.work, scales + part, self.lanes)
                store_vector(self.work, place, load(self.work, place, self.lanes) * scale)
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
            for place in keys:
                next_row = let("next_row", self._at(self.k, self.batch, place + KEYS, head, 0))
                prefetch(self.frame.buffer(self.k.source), next_row, self.depth // self.halves, 2)
            for rows in self._groups(own):
                weights = [[bind(self.work[row * KEYS + self.scores + key + i]) for i in range(count)] for row in rows]
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


def _bits_of(value: float) -> int:
    return int(np.float32(value).view(np.int32))
