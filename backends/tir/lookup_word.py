"""One look-up of words in a table of 32: vpermw where there is AVX-512 BW, elsewhere pshufb for the halves of words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.layouts.lut32 import ENTRIES
from nomul.backends.target import Target
from nomul.backends.tir.body import let
from nomul.backends.tir.byte_table import repeated, shuffled_bytes
from nomul.backends.tir.vectors import load, spread

Expr = Any
Ready = tuple[Expr, ...]
_HALF = ENTRIES // 2
_QUARTER = 8  # words that 16 bytes of a table take


def has_word_tables(target: Target) -> bool:
    """Whether one instruction looks up words in a table of 32."""
    return "avx512bw" in target.features


class WordLookup:
    """lanes: words of a vector.  tables: made by `WordTables`, int16."""

    def __init__(self, target: Target, tables: Any) -> None:
        self._tables, self._width = tables, target.vector_bytes
        self.lanes = target.vector_bytes // 2
        self._joined = has_word_tables(target)

    def ready(self, vector: Expr) -> Ready:
        """What look-ups need of a vector (uint16) with indices in its lowest five bits, whatever the others are."""
        if self._joined:
            return (tirx.reinterpret(f"int16x{self.lanes}", vector),)
        low = let("low", tirx.bitwise_and(vector, self._constant(_HALF - 1)))
        to_low = tirx.bitwise_or(low, self._constant(0x8000))  # the upper byte of a word looks up nothing: zero
        to_high = tirx.bitwise_or(tirx.shift_left(low, self._constant(8)), self._constant(0x80))
        is_upper = tirx.reinterpret(f"int16x{self.lanes}", tirx.shift_left(vector, self._constant(11)))
        return let("to_low", self._bytes(to_low)), let("to_high", self._bytes(to_high)), let("is_upper", is_upper)

    def table(self, place: Expr) -> Callable[[Ready], Expr]:
        """A look-up in the table at a place: int16 lanes."""
        if self._joined:
            table = let("table", load(self._tables, place, self.lanes))
            name = "llvm.x86.avx512.permvar.hi.512"
            return lambda ready: tirx.call_llvm_pure_intrin(f"int16x{self.lanes}", name, table, *ready)
        quarters = [self._quarter(place + number * _QUARTER) for number in range(4)]
        return lambda ready: self._chosen(quarters, ready)

    def _chosen(self, quarters: list[Expr], ready: Ready) -> Expr:
        to_low, to_high, is_upper = ready
        low = [self._shuffled(quarter, to_low) for quarter in quarters[::2]]
        high = [self._shuffled(quarter, to_high) for quarter in quarters[1::2]]
        found = [tirx.bitwise_or(*both) for both in zip(low, high, strict=True)]
        lower, upper = (let("found", tirx.reinterpret(f"int16x{self.lanes}", each)) for each in found)
        return tirx.Select(is_upper < spread(tirx.const(0, "int16"), self.lanes), upper, lower)

    def _quarter(self, place: Expr) -> Expr:
        """16 bytes of a table, in each 128 bits of a vector."""
        part = let("quarter", load(self._tables, place, _QUARTER))
        return let("quarter", self._bytes(repeated(part, _QUARTER, self.lanes)))

    def _shuffled(self, table: Expr, numbers: Expr) -> Expr:
        return let("part", shuffled_bytes(table, numbers, self._width // 4))

    def _bytes(self, vector: Expr) -> Expr:
        return tirx.reinterpret(f"int8x{self._width}", vector)

    def _constant(self, value: int) -> Expr:
        return spread(tirx.const(value, "uint16"), self.lanes)
