"""Where a dot product takes its bytes from: packed numbers, unpacked as they are read or left in place, or a panel that
was unpacked before. `backends/dot_codes/shape.py` draws the packed ones; a panel is bytes of one plane.

A source is read unit by unit: piece i of a unit is a vector of four columns, 4 i and those behind, for 64 rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from tvm import tirx

from nomul.backends.dot_codes import Summand
from nomul.backends.dot_codes.shape import PANEL, RUN, DotShape
from nomul.backends.tir.body import let
from nomul.backends.tir.byte_table import ByteTables
from nomul.backends.tir.palettes import HALF, Palette, Step
from nomul.backends.tir.vectors import load, spread

Expr = Any


@dataclass(frozen=True)
class Panel:
    """Bytes of one plane: a packed field of eight bits, or a panel in scratch. buffer: int32."""

    buffer: Any
    lanes: int
    columns = RUN
    stride = PANEL
    shifts = (0,)

    def opened(self, place: Expr, vectors: int) -> tuple[Panel, Expr]:
        """What reads units, and where they begin, for bytes of a group that begin at `place`."""
        return self, place

    def reader(self, place: Expr) -> PanelReader:
        return PanelReader(self, place)


@dataclass(frozen=True)
class PanelReader:
    """One unit, from `place` on."""

    source: Panel
    place: Expr

    def piece(self, number: int, vector: int) -> Expr:
        """int32 lanes: vector number `vector` of those that make up 64 rows."""
        return load(self.source.buffer, self.place + vector * self.source.lanes, self.source.lanes)


@dataclass(frozen=True)
class Packed:
    """Numbers of a summand. in_place: planes above the lowest stay where they are in their bytes, and are summed apart.

    columns: of a unit.  stride: elements from one unit to the next.  shifts: by how many bits the sum of each plane
    is too high.  palettes: of the group that is read, [field][vector]."""

    buffer: Any
    lanes: int
    shape: DotShape
    summand: Summand
    tables: ByteTables | None
    in_place: bool
    palettes: tuple[tuple[Palette | Step, ...], ...] = ()

    def opened(self, place: Expr, vectors: int) -> tuple[Packed, Expr]:
        """What reads units, and where they begin, for numbers of a group that begin at `place`, for the rows of so many
        vectors. Outside of loops over units: palettes are kept in registers."""
        count = self.shape.palettes
        palettes = tuple(
            tuple(self._palette(number, place + number * PANEL + vector * self.lanes) for vector in range(vectors))
            for number in range(count)
        )
        return replace(self, palettes=palettes), let("units_start", place + count * PANEL) if count else place

    def _palette(self, number: int, place: Expr) -> Palette | Step:
        """Of a field: behind the first one, one bit is a step."""
        vector = load(self.buffer, place, self.lanes)
        return Step(vector) if number and self.widths[number] == 1 else Palette(vector, self.widths[number])

    @property
    def widths(self) -> tuple[int, ...]:
        return self.shape.codes.parts[self.summand.part]

    @property
    def columns(self) -> int:
        return self.shape.unit

    @property
    def stride(self) -> int:
        return self.shape.vectors(self.summand.part) * PANEL

    @cached_property
    def shifts(self) -> tuple[int, ...]:
        return tuple(range(0, 8, self.widths[0])) if self.in_place else (0,)

    def reader(self, place: Expr) -> PackedReader:
        return PackedReader(self, place)


@dataclass(frozen=True)
class PackedReader:
    """One unit, from `place` on; each stored vector is loaded once."""

    source: Packed
    place: Expr
    _loaded: dict[tuple[int, int], Expr] = field(default_factory=dict)
    _shifted: dict[tuple[int, int], Expr] = field(default_factory=dict)

    def piece(self, number: int, vector: int) -> Expr:
        source = self.source
        before, below, value = 0, 0, None
        for position, width in enumerate(source.widths):
            planes = 8 // width
            key, at = (before + number // planes, vector), number % planes * width
            if source.palettes:
                palette, stored = source.palettes[position][vector], self._stored(*key)
                value = palette.added(value, stored, partial(self._upper, key), at)
            else:
                part = self._field(self._stored(*key), width, at, below)
                value = part if value is None else tirx.bitwise_or(value, part)
            before += source.columns * width // 32
            below += width
        if source.summand.table is None:
            return value
        assert source.tables is not None
        return source.tables.look_up(source.summand.table, let("number", value))

    def _upper(self, key: tuple[int, int]) -> Expr:
        """A stored vector with the upper halves of its bytes below; shifted once."""
        if key not in self._shifted:
            self._shifted[key] = let("upper", _shifted(self._stored(*key), HALF, self.source.lanes))
        return self._shifted[key]

    def _stored(self, group: int, vector: int) -> Expr:
        key = (group, vector)
        if key not in self._loaded:
            offset = group * PANEL + vector * self.source.lanes
            self._loaded[key] = let("stored", load(self.source.buffer, self.place + offset, self.source.lanes))
        return self._loaded[key]

    def _field(self, stored: Expr, width: int, at: int, target: int) -> Expr:
        """The field that stands at bit `at` of each byte, at bit `target`; in place at `at`."""
        if width == 8:
            return stored
        target = at if self.source.in_place else target
        mask = (2**width - 1) << target
        spread_mask = spread(tirx.const(_signed(mask * 0x01010101), "int32"), self.source.lanes)
        return tirx.bitwise_and(_shifted(stored, at - target, self.source.lanes), spread_mask)


def _shifted(value: Expr, right: int, lanes: int) -> Expr:
    if right == 0:
        return value
    by = spread(tirx.const(abs(right), "int32"), lanes)
    return tirx.shift_right(value, by) if right > 0 else tirx.shift_left(value, by)


def _signed(pattern: int) -> int:
    return pattern - (1 << 32) if pattern >= 1 << 31 else pattern


Source = Panel | Packed
Sources = Sequence[Source]
Reader = PanelReader | PackedReader
