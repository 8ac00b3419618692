"""Tables of 16 or 32 bytes in registers, looked up by vectors of numbers: pshufb, with VBMI vpermb for 32 entries."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.target import Target
from nomul.backends.tir.body import let, local, store
from nomul.backends.tir.vectors import lanes_at, load, spread

Expr = Any
USES = ("avx512vbmi",)  # features that kernels with 32 entries look at
_SHUFFLES = {64: "avx512.pshuf.b.512", 32: "avx2.pshuf.b", 16: "ssse3.pshuf.b.128"}
_QUARTER = 4  # 32-bit elements of 16 bytes


class ByteTables:
    """Make it outside of loops. buffer: int32, `count` tables of `entries` bytes one behind the other."""

    def __init__(self, target: Target, buffer: Any, count: int, entries: int) -> None:
        self._width = target.vector_bytes
        self._lanes = self._width // 4
        self._joined = entries == 32 and self._width == 64 and "avx512vbmi" in target.features
        self._halves = 1 if self._joined else entries // 16
        self._vectors = local("tables", "int32", count * self._halves * self._lanes)
        size = entries // 4 if self._joined else _QUARTER
        for number in range(count * self._halves):
            part = let("table", load(buffer, number * size, size))
            store(self._vectors, self._place(number), repeated(part, size, self._lanes))

    def look_up(self, table: int, numbers: Expr) -> Expr:
        """int32 lanes: the entry of each byte of `numbers`."""
        if self._joined:
            vectors = (tirx.reinterpret(self._bytes, vector) for vector in (self._table(table), numbers))
            entries = tirx.call_llvm_pure_intrin(self._bytes, "llvm.x86.avx512.permvar.qi.512", *vectors)
            return let("entry", tirx.reinterpret(f"int32x{self._lanes}", entries))
        low = self._shuffled(self._halves * table, numbers)
        if self._halves == 1:
            return low
        high = self._shuffled(2 * table + 1, numbers)
        bit = tirx.reinterpret(self._bytes, tirx.bitwise_and(numbers, self._spread(0x10101010)))
        zero = spread(tirx.const(0, "int8"), self._width)
        chosen = tirx.Select(bit > zero, tirx.reinterpret(self._bytes, high), tirx.reinterpret(self._bytes, low))
        return let("entry", tirx.reinterpret(f"int32x{self._lanes}", chosen))

    def _shuffled(self, number: int, numbers: Expr) -> Expr:
        if self._halves > 1:
            numbers = tirx.bitwise_and(numbers, self._spread(0x0F0F0F0F))
        shuffled = shuffled_bytes(self._table(number), numbers, self._lanes)
        return let("entry", tirx.reinterpret(f"int32x{self._lanes}", shuffled))

    def _table(self, number: int) -> Expr:
        return tirx.BufferLoad(self._vectors, [self._place(number)])

    def _place(self, number: int) -> Expr:
        return lanes_at(number * self._lanes, self._lanes)

    def _spread(self, value: int) -> Expr:
        return spread(tirx.const(value, "int32"), self._lanes)

    @property
    def _bytes(self) -> str:
        return f"int8x{self._width}"


def shuffled_bytes(bytes_: Expr, places: Expr, lanes: int) -> Expr:
    """int8, 4 * lanes: of each 16 bytes those at the places, zero for a place of 128. Operands have that many bytes."""
    kind = f"int8x{4 * lanes}"
    vectors = (tirx.reinterpret(kind, vector) for vector in (bytes_, places))
    return tirx.call_llvm_pure_intrin(kind, f"llvm.x86.{_SHUFFLES[4 * lanes]}", *vectors)


def repeated(part: Expr, size: int, lanes: int) -> Expr:
    """A vector of `size` lanes again and again."""
    if size == lanes:
        return part
    return tirx.Shuffle([part] * (lanes // size), [tirx.IntImm("int32", lane) for lane in range(lanes)])
