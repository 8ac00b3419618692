"""The indices of a record (`backends/layouts/lut32.py`) as vectors of words, in the order of their tables.

A word vector gives three by two shifts; the sixteenth of a unit is gathered out of the free bits of five words, by a
funnel shift each (vpshldw with VBMI2; else three instructions)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.layouts.lut32 import ENTRIES, INDICES, TILE, WORDS, Order
from nomul.backends.tir.body import let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, load, prefetch, spread

Expr = Any
USES = ("avx512vbmi2",)  # features that kernels made of this look at
# (number of the index in its unit, or behind the units; uint16 vectors with the index in their lowest five bits)
Use = Callable[[Expr, list[Expr]], None]


_NEAR = 16 * 1024  # bytes of a group's tables that stay in the first-level cache
_AHEAD = 8192  # words


def words_ahead(order: Order) -> int | None:
    """How far ahead of their use one row fetches words; None: the machine does by itself.

    On Zen 4 it does where groups have whole units alone, and their tables stay in the first-level cache."""
    return None if order.indices * ENTRIES * 2 <= _NEAR and not order.tail else _AHEAD


@dataclass(frozen=True)
class Chunk:
    """Indices of one record. words: offset of their first word in the run's first tile (words).  group, unit: where
    they begin.  units: how many whole units.  tail: indices behind them, without free bits.
    ahead: from here to the next group's words, which are fetched into the cache meanwhile (words)."""

    words: Expr
    group: Expr
    unit: Expr
    units: Expr | int
    tail: int
    ahead: Expr


class IndexReader:
    """Make it outside of loops. data: tiles as uint16.  count: vectors that are read side by side."""

    def __init__(self, data: Any, lanes: int, count: int) -> None:
        self._data, self._lanes, self.count = data, lanes, count
        self._spare = local("spare", "uint16", lanes * count)

    def each(self, bases: list[Expr], chunk: Chunk, use: Use, ahead: Expr | None = None) -> None:
        """All indices of a chunk. bases: where the words of vectors begin.  ahead: how far ahead to fetch (words)."""
        with loop("unit", chunk.units) as unit:
            places = [let("unit_words", base + unit * (WORDS * TILE)) for base in bases]
            self._unit(places, ahead, lambda number, vectors: use(unit * INDICES + number, vectors))
        for number in range(chunk.tail):
            if number % 3 == 0:
                places = [base + chunk.units * (WORDS * TILE) for base in bases]
                vectors = self._words(places, number // 3, ahead)
            use(chunk.units * INDICES + number, self._shifted(vectors, number % 3))

    def _unit(self, places: list[Expr], ahead: Expr | None, use: Use) -> None:
        """A loop over words: of a longer run LLVM would change the order of the additions, and run out of registers."""
        for v in range(self.count):
            store(self._spare, self._lanes_of(v), self._constant(0))
        with loop("word", WORDS) as word:
            vectors = self._words([place + word * TILE for place in places], 0, ahead)
            for v, vector in enumerate(vectors):
                before = tirx.BufferLoad(self._spare, [self._lanes_of(v)])
                joined = tirx.call_llvm_pure_intrin(
                    f"uint16x{self._lanes}", "llvm.fshl", before, vector, self._constant(1)
                )
                store(self._spare, self._lanes_of(v), joined)
            first = let("first_index", word * 3)
            for position in range(3):
                use(first + position, self._shifted(vectors, position))
        use(INDICES - 1, [tirx.BufferLoad(self._spare, [self._lanes_of(v)]) for v in range(self.count)])

    def _words(self, places: list[Expr], word: int, ahead: Expr | None) -> list[Expr]:
        for place in places if ahead is not None else ():
            prefetch(self._data, place + word * TILE + ahead, self._lanes, cache=2)
        return [let("words", load(self._data, place + word * TILE, self._lanes)) for place in places]

    def _shifted(self, vectors: list[Expr], position: int) -> list[Expr]:
        if not position:
            return vectors
        return [let("indices", tirx.shift_right(v, self._constant(5 * position))) for v in vectors]

    def _constant(self, value: int) -> Expr:
        return spread(tirx.const(value, "uint16"), self._lanes)

    def _lanes_of(self, vector: int) -> Expr:
        return lanes_at(vector * self._lanes, self._lanes)
