"""Bytes that fields of one or two bits name among four of their row and group (`Codes.palettes`), and sums of such."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes.shape import RUN
from nomul.backends.tir.body import let
from nomul.backends.tir.byte_table import shuffled_bytes
from nomul.backends.tir.vectors import spread

Expr = Any
HALF = 4  # bits of a byte
_EVERY_BYTE = 0x01010101
_FIRST_BYTES = 0x0C080400  # places of the first byte of each of four lanes


class Palette:
    """A byte shuffle picks from 16 bytes, of four lanes. Its index is a field and the number of the lane among the
    four, in the order in which no shift is needed: for fields in the lowest two bits of a byte entries stand lane by
    lane, for those in the next two entry by entry. Fields of one bit may be the higher of two: entry 2 is entry 1.

    vector: int32 lanes of four bytes.  width: bits of a field. Make it outside of loops."""

    def __init__(self, vector: Expr, width: int) -> None:
        self._width, self._lanes = width, int(vector.ty.dtype.lanes)
        self._by_lane = let("palette", vector)
        order = self._lane_numbers(1) + spread(tirx.const(_FIRST_BYTES, "int32"), self._lanes)
        self._by_entry = let("turned", _as_lanes(shuffled_bytes(self._by_lane, order, self._lanes)))

    def added(self, value: Expr | None, stored: Expr, upper: Callable[[], Expr], at: int) -> Expr:
        """int32 lanes: what the fields from bit `at` of every byte of `stored` name, added to `value`. upper: the same
        bytes, four bits lower."""
        is_low, place = at % HALF < 2, at % HALF
        mask = spread(tirx.const((2**self._width - 1 << place) * _EVERY_BYTE, "int32"), self._lanes)
        fields = tirx.bitwise_and(stored if at < HALF else upper(), mask)
        places = tirx.bitwise_or(fields, self._lane_numbers(RUN if is_low else 1))
        palette = self._by_lane if is_low else self._by_entry
        entry = let("entry", _as_lanes(shuffled_bytes(palette, places, self._lanes)))
        return entry if value is None else _as_lanes(_as_bytes(value) + _as_bytes(entry))

    def _lane_numbers(self, step: int) -> Expr:
        """`step` times the number of a lane among its four, in every byte."""
        ramp = tirx.Ramp(tirx.const(0, "int32"), tirx.const(step * _EVERY_BYTE, "int32"), self._lanes)
        return tirx.bitwise_and(ramp, spread(tirx.const(3 * step * _EVERY_BYTE, "int32"), self._lanes))


class Step:
    """A byte for each lane, four times, that is added where a bit is set: a comparison and an addition under a mask.

    vector: int32 lanes. Make it outside of loops."""

    def __init__(self, vector: Expr) -> None:
        self._lanes = int(vector.ty.dtype.lanes)
        self._step = let("step", vector)

    def added(self, value: Expr, stored: Expr, upper: Callable[[], Expr], at: int) -> Expr:
        """As `Palette.added`."""
        bit = int.from_bytes(bytes([1 << at] * RUN), "little", signed=True)
        chosen = _as_bytes(tirx.bitwise_and(stored, spread(tirx.const(bit, "int32"), self._lanes)))
        is_set = tirx.NE(chosen, spread(tirx.const(0, "int8"), RUN * self._lanes))
        return let("added", _as_lanes(tirx.Select(is_set, _as_bytes(value) + _as_bytes(self._step), _as_bytes(value))))


def _as_lanes(bytes_: Expr) -> Expr:
    return tirx.reinterpret(f"int32x{int(bytes_.ty.dtype.lanes) // RUN}", bytes_)


def _as_bytes(lanes: Expr) -> Expr:
    return tirx.reinterpret(f"int8x{RUN * int(lanes.ty.dtype.lanes)}", lanes)
