"""Binary codes of a chunk of tokens as words of 64 bits. Four bits number the rows of tables of sixteen."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.kernels.heads import HeadRows
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.output import column_pieces
from nomul.backends.tir.scratch import Scratch
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.dim import Dim

BITS = 4
SUMS = 1 << BITS  # of so many rows
WORD = 64  # bits
_BYTE = 8  # bits; bytes of a word

Expr = Any


class KeyWords:
    """Of each bit in 64 tokens: [bits] words of one head at a time, the first token in the lowest bit.

    Rows of codes are read in the order of memory, into [member][tokens / 8][bits] bytes, words made of those."""

    def __init__(self, rows: HeadRows, scratch: Scratch, most: int, chunk: int) -> None:
        """most: heads side by side.  chunk: tokens, whole words."""
        self._rows, self._groups = rows, chunk // _BYTE
        self._bytes = scratch.region("uint8", most * self._groups * rows.size)
        self._words = scratch.region("uint64", chunk // WORD * rows.size)

    def read(self, base: Expr, count: Expr, members: Expr) -> None:
        """Codes of `count` tokens from `base` on; tokens behind them, up to whole words, have no bits."""
        whole = let("whole", tirx.truncdiv(count, index(_BYTE)))
        with self._rows.rows(base, whole, members, 1, _BYTE) as (member, group, source):
            self._eight(member, group, [(source + row * self._rows.stride, None) for row in range(_BYTE)])
        groups = tirx.truncdiv(count + (WORD - 1), index(WORD)) * (WORD // _BYTE)
        with loop("group", groups - whole, whole) as group, loop("member", members) as member:
            start = let("source", base + member * self._rows.across)
            tokens = [let("token", group * _BYTE + row) for row in range(_BYTE)]
            sources = [start + tirx.min(token, count - 1) * self._rows.stride for token in tokens]
            self._eight(member, group, [(s, token < count) for s, token in zip(sources, tokens, strict=True)])

    def _eight(self, member: Expr, group: Expr, rows: list[tuple[Expr, Expr | None]]) -> None:
        """A byte of eight tokens for each bit: Horner's rule, the last token first."""
        target = let("target", (member * self._groups + group) * self._rows.size + self._bytes.start)
        rows = [(let("start", start), there) for start, there in rows]
        for piece, lanes in self._rows.pieces(self._rows.lanes * 4):
            with piece as place:
                number: Expr = None
                for start, there in reversed(rows):
                    bits = load(self._rows.buffer, start + place, lanes)
                    if there is not None:
                        bits = bits * spread(tirx.Cast("uint8", there), lanes)
                    number = let("number", bits if number is None else number + number + bits)
                store_vector(self._bytes.buffer, target + place, number)

    def gather(self, member: Expr, parts: Expr) -> None:
        """So many words of each bit, of one head."""
        with loop("part", parts) as part:
            start = (member * self._groups + part * (WORD // _BYTE)) * self._rows.size + self._bytes.start
            source, target = let("source", start), let("target", part * self._rows.size + self._words.start)
            for piece, lanes in self._rows.pieces(max(1, self._rows.lanes // 2)):
                with piece as place:
                    store_vector(self._words.buffer, target + place, self._joined(source + place, lanes))

    def _joined(self, source: Expr, lanes: int) -> Expr:
        """Eight bytes of each bit, the last tokens first."""
        word: Expr = None
        for number in reversed(range(WORD // _BYTE)):
            part = load(self._bytes.buffer, source + number * self._rows.size, lanes)
            wide = tirx.Cast(_type("uint64", lanes), part)
            word = let("word", wide if word is None else tirx.shift_left(word, _number(_BYTE, lanes)) + wide)
        return word

    def word(self, part: Expr, bit: Expr) -> Expr:
        """One bit of 64 tokens."""
        return let("word", self._words.buffer[part * self._rows.size + bit + self._words.start])


class QueryWords:
    """Of each token: [member][token][words], the first bit of its code in the lowest bit."""

    def __init__(self, rows: HeadRows, scratch: Scratch, most: int, chunk: int) -> None:
        """most: heads side by side.  chunk: tokens."""
        self._rows, self._chunk, self._words = rows, chunk, -(-rows.size // WORD)
        self._region = scratch.region("uint8", most * chunk * self._words * _BYTE)

    def read(self, base: Expr, count: Expr, members: Expr) -> None:
        """Codes of `count` tokens from `base` on. Bytes of a word behind the last one may be anything."""
        whole, left = divmod(self._rows.size, _BYTE)
        with self._rows.rows(base, count, members) as (member, row, source):
            target = let("target", (member * self._chunk + row) * (self._words * _BYTE) + self._region.start)
            widest = max(1, self._rows.lanes // 2)
            pieces = column_pieces(Dim.of(whole), widest, -(-whole // widest) * widest, index(whole)) if whole else []
            for piece, lanes in pieces:
                with piece as place:
                    store_vector(self._region.buffer, target + place, self._packed(source + place * _BYTE, lanes))
            if left:
                bits = [self._rows.buffer[source + whole * _BYTE + bit] for bit in range(left)]
                byte = sum((bit * tirx.IntImm("uint8", 1 << place) for place, bit in enumerate(bits[1:], 1)), bits[0])
                store_vector(self._region.buffer, target + whole, byte)

    def _packed(self, source: Expr, lanes: int) -> Expr:
        """Eight neighbouring bytes of one bit as a byte: neighbours meet, then pairs of them, then fours."""
        word = tirx.reinterpret(_type("uint64", lanes), load(self._rows.buffer, source, lanes * _BYTE))
        for bits in (1, 2, 4):
            word = let("word", tirx.bitwise_or(word, tirx.shift_right(word, _number((_BYTE - 1) * bits, lanes))))
        return tirx.Cast(_type("uint8", lanes), word)

    def word(self, member: Expr, row: Expr, number: Expr) -> Expr:
        """64 bits of a token."""
        place = ((member * self._chunk + row) * self._words + number) * _BYTE + self._region.start
        return let("word", tirx.reinterpret("uint64", load(self._region.buffer, place, _BYTE)))


def chosen(word: Expr, group: int) -> Expr:
    """Four bits of a word as a number, i64."""
    bits = tirx.shift_right(word, _number(group * BITS, 1)) if group else word
    return tirx.Cast("int64", tirx.bitwise_and(bits, _number(SUMS - 1, 1)))


def _type(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _number(value: int, lanes: int) -> Expr:
    return spread(tirx.IntImm("uint64", value), lanes)
