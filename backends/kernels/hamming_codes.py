"""Four bits of binary codes at a time as numbers of rows in tables of sixteen, worked out for a chunk of tokens."""

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
_GATHER = 0x01020408  # times four bytes of one bit each: those bits, in order, in the highest byte

Expr = Any


class KeyNumbers:
    """Of each bit in four neighbouring tokens: [member][tokens / 4][bits] of u8, 0 to 15."""

    def __init__(self, rows: HeadRows, scratch: Scratch, most: int, chunk: int) -> None:
        """most: heads side by side.  chunk: tokens."""
        self._rows, self._groups = rows, chunk // BITS
        self._region = scratch.region("uint8", most * self._groups * rows.size)

    def read(self, base: Expr, count: Expr, members: Expr, together: int) -> None:
        """Codes of `count` tokens from `base` on; tokens behind them, up to whole runs of `together`, have no bits."""
        whole = let("whole", tirx.truncdiv(count, index(BITS)))
        with self._rows.rows(base, whole, members, 1, BITS) as (member, group, source):
            self._group(member, group, [(source + row * self._rows.stride, None) for row in range(BITS)])
        groups = tirx.truncdiv(count + (together - 1), index(together)) * (together // BITS)
        with loop("group", groups - whole, whole) as group, loop("member", members) as member:
            start = let("source", base + member * self._rows.across)
            tokens = [let("token", group * BITS + row) for row in range(BITS)]
            sources = [start + tirx.min(token, count - 1) * self._rows.stride for token in tokens]
            self._group(member, group, [(s, token < count) for s, token in zip(sources, tokens, strict=True)])

    def _group(self, member: Expr, group: Expr, rows: list[tuple[Expr, Expr | None]]) -> None:
        """Horner's rule, the last token first."""
        target = let("target", (member * self._groups + group) * self._rows.size + self._region.start)
        rows = [(let("start", start), there) for start, there in rows]
        for piece, lanes in self._rows.pieces(self._rows.lanes * 4):
            with piece as place:
                number: Expr = None
                for start, there in reversed(rows):
                    bits = load(self._rows.buffer, start + place, lanes)
                    if there is not None:
                        bits = bits * spread(tirx.Cast("uint8", there), lanes)
                    number = let("number", bits if number is None else number + number + bits)
                most = spread(tirx.IntImm("uint8", SUMS - 1), lanes)
                store_vector(self._region.buffer, target + place, tirx.bitwise_and(number, most))

    def number(self, member: Expr, group: Expr, bit: Expr) -> Expr:
        """Of one bit in a group of four tokens."""
        at = (member * self._groups + group) * self._rows.size + bit
        return tirx.Cast("int64", self._region.buffer[at + self._region.start])


class QueryPlaces:
    """Of four neighbouring bits of each token: [member][token][bits / 4] of i32, in tables of `step` elements a row."""

    def __init__(self, rows: HeadRows, scratch: Scratch, most: int, chunk: int, step: int) -> None:
        self._rows, self._chunk, self._step = rows, chunk, step
        self.groups = -(-rows.size // BITS)
        self._region = scratch.region("int32", most * chunk * self.groups)

    def read(self, base: Expr, count: Expr, members: Expr) -> None:
        """Codes of `count` tokens from `base` on."""
        whole, left = divmod(self._rows.size, BITS)
        with self._rows.rows(base, count, members) as (member, row, source):
            target = let("target", (member * self._chunk + row) * self.groups + self._region.start)
            padded = -(-whole // self._rows.lanes) * self._rows.lanes
            pieces = column_pieces(Dim.of(whole), self._rows.lanes, padded, index(whole)) if whole else []
            for piece, lanes in pieces:
                with piece as group:
                    self._keep(target, group, self._numbers(source + group * BITS, lanes))
            if left:
                bits = [self._rows.buffer[source + whole * BITS + bit] for bit in range(left)]
                parts = [tirx.shift_left(_integers(bit, 1), _number(number, 1)) for number, bit in enumerate(bits)]
                self._keep(target, index(whole), sum(parts[1:], parts[0]))

    def _numbers(self, source: Expr, lanes: int) -> Expr:
        """Every four bytes as a number of four bits."""
        wide = tirx.reinterpret(_type(lanes), load(self._rows.buffer, source, lanes * BITS))
        return tirx.shift_right(let("gathered", wide * _number(_GATHER, lanes)), _number(24, lanes))

    def _keep(self, target: Expr, group: Expr, numbers: Expr) -> None:
        lanes = int(numbers.ty.dtype.lanes)
        entries = tirx.bitwise_and(let("numbers", numbers), _number(SUMS - 1, lanes)) * _number(self._step, lanes)
        step = tirx.IntImm("int32", SUMS * self._step)
        first = let("table", tirx.Cast("int32", group) * step)
        tables = first if lanes == 1 else tirx.Ramp(first, step, lanes)
        store_vector(self._region.buffer, target + group, entries + tables)

    def place(self, member: Expr, row: Expr, group: Expr) -> Expr:
        """Of four bits of a token."""
        at = (member * self._chunk + row) * self.groups + group
        return tirx.Cast("int64", self._region.buffer[at + self._region.start])


def _type(lanes: int) -> str:
    return "int32" if lanes == 1 else f"int32x{lanes}"


def _integers(bits: Expr, lanes: int) -> Expr:
    return tirx.Cast(_type(lanes), bits)


def _number(value: int, lanes: int) -> Expr:
    return spread(tirx.IntImm("int32", value), lanes)
