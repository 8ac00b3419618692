"""Few eight-bit rows times a panel of 64 rows of N of M weights: the rows follow the weights, not these the rows.

For a window of columns 16 activations of a row are repeated over the vector; a byte shuffle by the places of the kept
weights puts its activation beside each, and one dot product multiplies 64 of them. Empty places take a zero.
What the codes are too much by is multiplied by the sum of those activations: a dot product by ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.shape import BLOCK, RUN
from nomul.backends.dot_codes.sparse import WINDOW, SparseShape
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.byte_table import repeated, shuffled_bytes
from nomul.backends.tir.dot_rows import DotRows
from nomul.backends.tir.dot_tile import DotTile, Weights, prefetch_ahead
from nomul.backends.tir.scratch import Region
from nomul.backends.tir.sparse_weights import SparseWeights
from nomul.backends.tir.vectors import load, spread

Expr = Any
_NOTHING = 0x80  # a shuffle gives zero for this place


class SparseTile(DotTile):
    """Make it outside of loops. weights: of one summand.  totals: f32 [rows, 64].  counts: of rows that can occur."""

    def __init__(self, weights: SparseWeights, target: Target, totals: Region, counts: Sequence[int]) -> None:
        super().__init__(weights.sparse.dense, target, totals, weights.scaling(), counts)
        self._sparse, self._packed = weights.sparse, weights

    @property
    def needs_sums(self) -> bool:
        return False

    @property
    def stream_stride(self) -> int:
        return self._sparse.kept.term_stride

    @property
    def sums_each(self) -> int:
        """The products, and the activations beside the kept weights where their sum is asked for."""
        return 2 if self.shape.codes.offset is None or self.offset != 0 else 1

    def passes(self, height: int, weights: Weights, rows: DotRows, row: Expr, part: tuple[Expr, Expr]) -> None:
        blocks = self.registers.width(height, self.sums_each, self.shape.blocks)
        vectors = blocks * self.registers.blocks
        with loop("pass", self.shape.blocks // blocks) as number:
            column = let("column", number * (blocks * BLOCK))
            for total in range(self.sums_each * height * vectors):
                self.store_sum(total, spread(tirx.const(0, "int32"), self.lanes))
            stride = rows.rows.stride
            first = let("first", rows.rows.start + row * stride + part[0] * self.shape.padded)
            starts = [let("q", first + r * stride) for r in range(height)]
            self._add_units(vectors, column, weights.start(*part, index(0)), part[0], rows.rows.buffer, starts)
            self.finish(row, part, column, self._results(height, vectors, part[0], column))

    def _add_units(
        self, vectors: int, column: Expr, codes_start: Expr, group: Expr, q: Any, starts: Sequence[Expr]
    ) -> None:
        (source,), places = self._packed.sources(len(starts)), self._packed.places
        codes_start = let("codes_start", codes_start + column)
        places_start = let("places_start", self._packed.places_start(group) + column)
        with loop("unit", self.shape.units) as unit:
            readers = []
            for stream, start in ((source, codes_start), (places, places_start)):
                place = let("unit_start", start + unit * stream.stride)
                prefetch_ahead(stream, place, vectors * self.lanes, self.ahead)
                readers.append(stream.reader(place))
            begin = let("columns_start", unit * self.shape.unit)
            for window in range(self._sparse.unit_windows):
                offset = let("offset", begin + window * self._sparse.window)
                activations = [self._repeated(q, start + offset) for start in starts]
                for dword in range(self._sparse.dwords):
                    self._add_dword(dword, window * self._sparse.dwords + dword, vectors, readers, activations)

    def _repeated(self, q: Any, place: Expr) -> Expr:
        """16 activations in every 16 bytes."""
        quarter = let("sixteen", tirx.reinterpret(f"int32x{WINDOW // RUN}", load(q, place, WINDOW)))
        return let("activations", repeated(quarter, WINDOW // RUN, self.lanes))

    def _add_dword(
        self, dword: int, number: int, vectors: int, readers: Sequence[Any], activations: Sequence[Expr]
    ) -> None:
        """dword: in its window.  number: in its unit.  readers: of codes and of places."""
        codes, places = readers
        first = [_NOTHING if base is None else base for base in self._sparse.base(dword)]
        base = tirx.const(int.from_bytes(bytes(first), "little", signed=True), "int32")
        height = len(activations)
        for v in range(vectors):
            ready = self.dot.weights(codes.piece(number, v))
            picked = let("picked", places.piece(number, v) + spread(base, self.lanes))
            for r, sixteen in enumerate(activations):
                gathered = let("gathered", shuffled_bytes(sixteen, picked, self.lanes))
                q = tirx.reinterpret(f"int32x{self.lanes}", gathered)
                at = r * vectors + v
                self.store_sum(at, self.dot.add(self.load_sum(at), ready, q))
                if self.sums_each > 1:
                    at += height * vectors
                    self.store_sum(at, self.dot.add(self.load_sum(at), self.dot.ones(), q))

    def _results(self, height: int, vectors: int, group: Expr, column: Expr) -> list[list[Expr]]:
        """[rows, vectors]: the sums, less what codes are too much by."""
        found: list[list[Expr]] = []
        for r in range(height):
            found.append([])
            for v in range(vectors):
                total = self.load_sum(r * vectors + v)
                if self.sums_each > 1:
                    kept = self.load_sum((height + r) * vectors + v)
                    total = total - self._excess(group, column + v * self.lanes) * kept
                found[r].append(let("sum", total))
        return found

    def _excess(self, group: Expr, column: Expr) -> Expr:
        """int32 lanes: what the codes of a vector are too much by."""
        if self.scaling.zero is None:
            return spread(tirx.const(self.offset, "int32"), self.lanes)
        return self.scaling.zero(group, column) - spread(tirx.const(self.dot.bias, "int32"), self.lanes)


def slack(shape: SparseShape) -> int:
    """Bytes that a window's activations are read beyond the columns."""
    return WINDOW - shape.window
