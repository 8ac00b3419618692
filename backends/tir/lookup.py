"""Products of rows with weights that are indices of five bits, by look-ups in tables of 16-bit sums and additions.

    for an index of 32 rows of weights and one row of activations, AVX-512 BW:
        1 vpermw    table of the row, indexed; upper bits of an index are ignored
        1 vpaddw    sums of 16 bits, which a chunk of indices cannot overflow
    few rows: indices are read from their words, 15 shifts (2 / 3 a word, 1 for its free bit) for 16 of them
    several: they are unpacked into scratch once for all rows, and four rows share the load of an index

The sums of a chunk become 32-bit integers by vpmaddwd, those of even words by (1, 0), those of odd ones by (0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.layouts.lut32 import ENTRIES, INDICES, ROWS, TILE, Order
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, local, loop, store
from nomul.backends.tir.dot import pair_sums
from nomul.backends.tir.gemm import Rows
from nomul.backends.tir.lookup_indices import Chunk, IndexReader, words_ahead
from nomul.backends.tir.lookup_tables import BiasedRow, Sums, WordTables
from nomul.backends.tir.lookup_word import WordLookup, has_word_tables
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector

Expr = Any
FEW = 8  # rows of which each reads the words: from memory that is quicker than to unpack indices for all
HEIGHT = 4  # rows that share an unpacked index
_VECTORS = 4  # of words side by side
Sink = Callable[[Expr, Expr, Expr], None]  # (row, column in the tile, int32 sums of that column and those behind)


class LookupTile:
    """Make it outside of loops: it owns the accumulators. data: the tiles, as uint16."""

    dtype = "uint16"

    def __init__(self, target: Target, order: Order, data: Any, tables: WordTables, row: BiasedRow, sums: Sums) -> None:
        self._order, self._tables = order, tables
        self._row, self._table_sums = row, sums
        self._ahead = words_ahead(order)
        self._look_up = WordLookup(target, tables.buffer)
        self.lanes = self._look_up.lanes
        self._count = min(_VECTORS, TILE // self.lanes)
        self._reader = IndexReader(data, self.lanes, self._count)
        self._sums = local("word_sums", "int16", self._count * self.lanes * (HEIGHT if has_word_tables(target) else 1))

    # -- the two forms -----------------------------------------------------------------------------------------
    def stream(self, row: Expr, tile: Expr, chunk: Chunk, sink: Sink) -> None:
        """One row times the columns of a tile (its number in the run)."""
        table = let("tables", self._tables.place(row, self._first(chunk)))
        with loop("part", TILE // (self._count * self.lanes)) as part:
            bases = [let("base", base + chunk.words) for base in self._bases(tile, part)]
            self._clear(1)
            self._reader.each(
                bases, chunk, lambda number, vectors: self._add([table + number * ENTRIES], vectors), self._ahead
            )
            self._finish(1, row, part, sink)

    def unpack(self, tile: Expr, chunk: Chunk, panel: Any, start: Expr) -> None:
        """The indices of a tile as [index, 128] uint16 of `panel` from `start` on; for whole tiles side by side."""
        bases = [let("base", base + chunk.words) for base in self._bases(tile, index(0))]

        def write(number: Expr, vectors: list[Expr]) -> None:
            place = let("unpacked", start + number * TILE)
            for v, vector in enumerate(vectors):
                store_vector(panel, place + v * self.lanes, vector)

        self._reader.each(bases, chunk, write, chunk.ahead)

    def multiply(self, height: int, row: Expr, panel: Any, start: Expr, chunk: Chunk, sink: Sink) -> None:
        """`height` rows times the columns of a tile whose indices are unpacked."""
        first = self._first(chunk)
        tables = [let("tables", self._tables.place(row + r, first)) for r in range(height)]
        self._clear(height)
        with loop("index", chunk.units * INDICES + chunk.tail) as number:
            place = let("unpacked", start + number * TILE)
            vectors = [let("indices", load(panel, place + v * self.lanes, self.lanes)) for v in range(self._count)]
            self._add([table + number * ENTRIES for table in tables], vectors)
        self._finish(height, row, index(0), sink)

    def panel_size(self, units: int, tail: int) -> int:
        """Elements that the unpacked indices of a tile take."""
        return (units * INDICES + tail) * TILE

    def prepare(self, rows: Rows, row: Expr) -> None:
        """Make the tables of a row."""
        self._row.fill(rows, row)
        self._tables.fill(self._table_sums, row)

    # -- parts -------------------------------------------------------------------------------------------------
    def _first(self, chunk: Chunk) -> Expr:
        """The number of a chunk's first index among all of a row."""
        return let("first", chunk.group * self._order.indices + chunk.unit * INDICES)

    def _bases(self, tile: Expr, part: Expr) -> list[Expr]:
        """Where the words of vectors begin in `data`."""
        first = tile * (self._order.group_bytes // 2) + part * (self._count * self.lanes)
        return [first + v * self.lanes for v in range(self._count)]

    def _add(self, tables: list[Expr], vectors: list[Expr]) -> None:
        """Look up one index and add, for each row."""
        ready = [self._look_up.ready(vector) for vector in vectors]
        for r, table in enumerate(tables):
            look_up = self._look_up.table(table)
            for v, indices in enumerate(ready):
                place = self._place(r, v)
                store(self._sums, place, tirx.BufferLoad(self._sums, [place]) + look_up(indices))

    def _clear(self, height: int) -> None:
        for number in range(height * self._count):
            store(self._sums, self._place(0, number), spread(tirx.const(0, "int16"), self.lanes))

    def _finish(self, height: int, row: Expr, part: Expr, sink: Sink) -> None:
        """Hand the sums on: even words are columns of the first half of a block, odd ones of the other."""
        half = self.lanes // 2
        each = ROWS // self.lanes
        for r in range(height):
            for v in range(self._count):
                vector = let("vector", part * self._count + v)
                block = tirx.shift_right(vector, index(each.bit_length() - 1))
                column = let("column", block * ROWS + tirx.bitwise_and(vector, index(each - 1)) * half)
                for odd, pair in enumerate((1, 1 << 16)):
                    pairs = tirx.reinterpret(f"int16x{self.lanes}", spread(tirx.IntImm("int32", pair), half))
                    words = tirx.BufferLoad(self._sums, [self._place(r, v)])
                    sink(row + r, column + odd * (ROWS // 2), let("total", pair_sums(words, pairs)))

    def _place(self, row: int, vector: int) -> Expr:
        return lanes_at((row * self._count + vector) * self.lanes, self.lanes)
