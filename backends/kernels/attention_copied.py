"""nn.attention whose keys and values are changed before they are multiplied: half floats, and scores = "bf16".

The first of the neighbouring tiles that takes a block of keys copies its keys and values into scratch, as f32; all of
them read the copies. With scores = "bf16" all four operands of the products are rounded to bf16, and where the machine
has `vdpbf16ps` the copies are pairs: of neighbouring elements of a key, and of one element of two neighbouring values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx

from nomul.backends.frame import KernelFrame
from nomul.backends.group import Group
from nomul.backends.kernels import attention
from nomul.backends.kernels.attention_tiles import KEYS, Tile
from nomul.backends.registry import Built, kernel
from nomul.backends.storage import rounded
from nomul.backends.target import Target
from nomul.backends.tir import bf16_pairs
from nomul.backends.tir.bf16_pairs import PairTile
from nomul.backends.tir.body import index, let, loop, store, when
from nomul.backends.tir.gemm import Panel, Product, Reduction, Rows
from nomul.backends.tir.register_tile import PANEL, RegisterTile
from nomul.backends.tir.vectors import lanes_at, load, store_vector, zeros
from nomul.ir.dim import Dim
from nomul.ir.graph import Node
from nomul.ir.types import DType
from nomul.ir.views import View

_FLOATS = (DType.F32, DType.BF16, DType.F16)
_TOGETHER = 32  # elements of a key that become one vector of pairs

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    return attention.refused_form(group, _FLOATS)


@kernel("nn.attention", uses=(bf16_pairs.FEATURE,), accepts=refusal, rank=10)
def copied(group: Group, target: Target) -> Built:
    """Queries in lanes; a tile is 32 queries of one head."""
    anchor = group.anchor
    assert anchor is not None
    has_pairs = anchor.attrs["scores"] == "bf16" and bf16_pairs.FEATURE in target.features
    return attention.built(group, target, PairAttention if has_pairs else CopiedAttention)


class CopiedAttention(attention.Attention):
    """Behind what is the tiles' own in scratch stand the copies: keys [64, D], then values [64, E]."""

    skips = False  # copies are of whole blocks

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        super().__init__(frame, anchor)
        self.tile = RegisterTile.of(frame.target, None)
        self.lanes = self.tile.lanes
        self.is_rounded = anchor.attrs["scores"] == "bf16"

    @property
    def key_copies(self) -> int:
        return super().size

    @property
    def value_copies(self) -> int:
        return self.key_copies + KEYS * self.depth

    @property
    def size(self) -> int:
        return self.value_copies + KEYS * self.width

    def pack_queries(self, tile: Tile) -> None:
        """Q^T times the scale; lanes without a query repeat the last one."""
        with self.query_rows(tile) as (lane, start), loop("d", self.depth) as d:
            element = self.elements(self.q, start, d, 1)
            store(self.work, tile.at + d * PANEL + lane, element * tirx.FloatImm("float32", self.scale))

    def score(self, tile: Tile, head: Expr, start: Expr, place: Expr, keys: Expr) -> None:
        """Copies of the block's rows first, where no tile before has made them."""
        with when(self.visits.ahead[0] != 0):
            count = let("count", tirx.min(index(KEYS), self.frame.size(self.keys) - start))
            values = self._base(self.v, tile.batch, head) + start * self.frame.size(self.v.strides[1])
            self.copy(place, let("values", values), count)
        self.multiply_keys(tile, keys)

    def copy(self, k_start: Expr, v_start: Expr, count: Expr) -> None:
        """Copies of `count` rows of keys and of values from these places on."""
        for view, start, size, to in (
            (self.k, k_start, self.depth, self.key_copies),
            (self.v, v_start, self.width, self.value_copies),
        ):
            with loop("row", count) as row:
                place = let("row_start", start + row * self.frame.size(view.strides[1]))
                for d, lanes in self.pieces(view, size, self.lanes):
                    store_vector(self.work, row * size + to + d, self.elements(view, place, d, lanes))

    def multiply_keys(self, tile: Tile, keys: Expr) -> None:
        """The scores of a block."""
        rows, over = Rows(self.work, index(self.key_copies), self.depth), Reduction(self.depth)
        self._by_keys.block(keys, PANEL, Product(rows, Panel(self.work, tile.at), over, self._keep_scores))

    def weigh(self, tile: Tile, k_start: Expr, v_start: Expr, keys: Expr) -> None:
        if self.is_rounded:
            with loop("key", keys) as key:
                for column in self._columns():
                    place = let("place", key * PANEL + column)
                    store_vector(
                        self.work, place, rounded(let("weight", load(self.work, place, self.lanes)), DType.BF16)
                    )
        rows, over = Rows(self.work, index(self.value_copies), 1), Reduction(1, ((keys, self.width),))
        ahead = self.rows_ahead(k_start, v_start)
        product = Product(rows, Panel(self.work, index(0)), over, self.grow(tile), ahead)
        self._by_values.block(self.width, PANEL, product)

    # -- elements of operands ------------------------------------------------------------------------------------
    @contextmanager
    def query_rows(self, tile: Tile) -> Iterator[tuple[Expr, Expr]]:
        """(lane, where its query begins)."""
        base = let("q_base", self._base(self.q, tile.batch, tile.head))
        with loop("lane", PANEL) as lane:
            row = let("row", tirx.min(tile.first + lane, self.frame.size(self.queries) - 1))
            yield lane, let("q_start", base + row * self.frame.size(self.q.strides[1]))

    def elements(self, view: View, start: Expr, d: Expr, lanes: int) -> Expr:
        """Neighbouring elements of a row as f32, rounded where that is asked for."""
        value = self.raw_elements(view, start, d, lanes)
        return rounded(value, DType.BF16) if self.is_rounded else value

    def raw_elements(self, view: View, start: Expr, d: Expr, lanes: int) -> Expr:
        place = lanes_at(start + d, lanes) if lanes > 1 else start + d * self.frame.size(view.strides[3])
        return let("elements", self.frame.read_flat(view.source, place))

    def pieces(self, view: View, size: int, lanes: int) -> Iterator[tuple[Expr, int]]:
        """(first element, how many) of the pieces of a row; the caller emits what is to be done with each."""
        whole = size // lanes if view.strides[3] == Dim.of(1) else 0
        if whole:
            with loop("piece", whole) as piece:
                yield let("d", piece * lanes), lanes
        if size > whole * lanes:
            with loop("d", size - whole * lanes, whole * lanes) as d:
                yield d, 1


class PairAttention(CopiedAttention):
    """Panels and copies are pairs of bf16: Q^T [D / 2, 32], keys [64, D / 2], values [32, E], weights [32, 32]."""

    def __init__(self, frame: KernelFrame, anchor: Node) -> None:
        super().__init__(frame, anchor)
        self.half_depth = (self.depth + 1) // 2

    @property
    def value_copies(self) -> int:
        return self.key_copies + KEYS * self.half_depth

    @property
    def size(self) -> int:
        return self.value_copies + KEYS // 2 * self.width + bf16_pairs.ROWS

    def prepare(self, most_keys: int) -> None:
        self._pair_tile = PairTile()

    def pack_queries(self, tile: Tile) -> None:
        with self.query_rows(tile) as (lane, start), loop("d", self.half_depth) as d:
            store(self.work, tile.at + d * PANEL + lane, self._pair_of_row(self.q, start, let("first", d * 2)))

    def _pair_of_row(self, view: View, start: Expr, d: Expr) -> Expr:
        """Elements d and d + 1; zero behind the last."""
        low, high = (self.raw_elements(view, start, tirx.min(d + i, index(self.depth - 1)), 1) for i in (0, 1))
        if self.depth % 2:
            high = let("high", tirx.Select(d + 1 < self.depth, high, tirx.FloatImm("float32", 0.0)))
        return bf16_pairs.pair(low, high)

    def copy(self, k_start: Expr, v_start: Expr, count: Expr) -> None:
        k_stride, v_stride = (self.frame.size(view.strides[1]) for view in (self.k, self.v))
        whole = self.depth // _TOGETHER
        with loop("row", count) as row:
            start, to = let("row_start", k_start + row * k_stride), let("to", row * self.half_depth + self.key_copies)
            with loop("piece", whole) as piece:
                elements = self.raw_elements(self.k, start, let("d", piece * _TOGETHER), _TOGETHER)
                store_vector(self.work, to + piece * (_TOGETHER // 2), bf16_pairs.pairs(elements))
            done = whole * _TOGETHER // 2
            with loop("pair", self.half_depth - done, done) as place:
                store(self.work, to + place, self._pair_of_row(self.k, start, let("d", place * 2)))
        with loop("pair", tirx.truncdiv(count + 1, index(2))) as row:
            first = let("first", v_start + row * 2 * v_stride)
            second = let("second", v_start + tirx.min(row * 2 + 1, count - 1) * v_stride)
            for d, lanes in self.pieces(self.v, self.width, self.lanes):
                low, high = (self.raw_elements(self.v, start, d, lanes) for start in (first, second))
                store_vector(self.work, row * self.width + self.value_copies + d, bf16_pairs.pair(low, high))

    def multiply_keys(self, tile: Tile, keys: Expr) -> None:
        def keep(row: Expr, column: Expr, sums: Expr) -> None:
            self._keep_scores(row, column, sums * self._constant(self.scale))

        rows = Rows(self.work, index(self.key_copies), self.half_depth)
        self._pair_tile.block(keys, rows, tile.at, index(self.half_depth), keep)

    def weigh(self, tile: Tile, k_start: Expr, v_start: Expr, keys: Expr) -> None:
        self._pair_weights(keys)
        rows = Rows(self.work, index(self.value_copies), 1, self.width)
        of_block, grow = self.rows_ahead(k_start, v_start), self.grow(tile)

        def ahead(row: Expr, step: Expr) -> None:
            for i in range(2):
                of_block(row, step * 2 + i)

        def keep(row: Expr, column: Expr, sums: Expr) -> None:
            if self.width % bf16_pairs.ROWS == 0:
                grow(row, column, sums)
                return
            with when(row < self.width):
                grow(row, column, sums)

        self._pair_tile.block(index(self.width), rows, index(0), tirx.truncdiv(keys + 1, index(2)), keep, ahead)

    def _pair_weights(self, keys: Expr) -> None:
        """The weights of two keys become pairs, in place; of an odd number the last one's partner is zero."""
        with when(tirx.truncmod(keys, index(2)) != 0):
            for column in self._columns():
                store_vector(self.work, keys * PANEL + column, zeros(self.lanes))
        with loop("pair", tirx.truncdiv(keys + 1, index(2))) as row:
            for column in self._columns():
                place = let("place", row * (2 * PANEL) + column)
                low, high = (let("weight", load(self.work, place + i * PANEL, self.lanes)) for i in (0, 1))
                store_vector(self.work, row * PANEL + column, bf16_pairs.pair_of_weights(low, high))
