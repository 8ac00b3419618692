"""How one instruction-set level covers a block of rows x 32 columns of a product with its vector registers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nomul.backends.target import Target

PANEL = 32  # columns of a weight panel, the same on every level (backends/layouts/panel32.py)
ROUNDED_HEIGHT = 4  # of tiles that stand out, for blocks of any row count
MOST_SLACK = 12  # rows behind the last one that a tile may read where it stands out
FEW_COUNTS = 2
_CHAINS = 8  # independent sums that keep two multiply-adders of latency 4 busy
_LANE_CHAINS = 16  # four of them, as Apple's cores have
_SUMS = 12  # vector registers for sums, of 16
_LANE_ROWS = (12, 8, 6, 4, 3)  # heights that a block of 24 rows consists of
_LANE_REGISTERS = 31  # of 32 for sums, a vector of each row and one of the panel: less, and LLVM spills
_DECODE_REGISTERS = 2  # for weights on their way to f32


@dataclass(frozen=True)
class Cover:
    """Tile heights that make up a block of rows: as many full ones as fit, then some of `rest` (powers of two, highest
    first), or tiles of height `rounding` the last of which may stand out behind the last row."""

    full: int
    rest: tuple[int, ...] = ()
    rounding: int = 0

    @property
    def heights(self) -> set[int]:
        return {self.full, *self.rest, self.rounding} - {0}

    def time(self, counts: Iterable[int]) -> float:
        """Of blocks with these row counts, in rows. A tile costs half a row more, and no low tile less than 2.5: the
        panel has to be loaded for it too."""
        return sum(max(height, 2.5) + 0.5 for count in counts for height in self._tiles(count))

    def _tiles(self, count: int) -> list[int]:
        if self.rounding == self.full:
            return [self.full] * -(-count // self.full)
        left = count % self.full
        rounded = [self.rounding] * -(-left // self.rounding) if self.rounding else []
        return [self.full] * (count // self.full) + rounded + [height for height in self.rest if left & height]


@dataclass(frozen=True)
class RegisterTile:
    """widths: lanes of the vectors side by side that one pass over a panel takes.  rows: of a full tile.

    covers: one pass takes all columns that are used; otherwise passes follow each other until the panel is done.
    by_lane: multiply-adds take single lanes of vectors of A."""

    widths: tuple[int, ...]
    rows: int
    covers: bool = False
    by_lane: bool = False

    @staticmethod
    def of(target: Target, columns: int | None, *, decoded: bool = False) -> RegisterTile:
        """The tile for a product with so many columns (None: not known when compiling).

        With 64-byte vectors 8 x 32, but 12 x 16 where that leaves fewer columns of the last panel unused, and 12 x 32
        where weights are decoded, so that each is less often; with shorter vectors 6 x 2 of them. A single panel is
        taken only as far as it is used, in vectors of half the width too: many AVX-512 machines save time by that.
        NEON on A64, with 32 registers and multiply-adds by a lane: 6 x 16, decoded 8 x 8."""
        lanes = target.vector_bytes // 4
        if target.by_lane:
            return _of_lanes(lanes, columns, decoded)
        if columns is not None and columns <= PANEL:
            return _narrow(lanes, columns)
        if lanes < 16:
            return RegisterTile((lanes, lanes), _SUMS // 2)
        if columns is not None and 0 < columns % PANEL <= 16 and columns < 8 * PANEL:
            return RegisterTile((16,), 12)
        return RegisterTile((16, 16), 12 if decoded else 8)

    @property
    def lanes(self) -> int:
        """Of the widest vector."""
        return self.widths[0]

    @property
    def chains(self) -> int:
        """Independent sums that are enough."""
        return _LANE_CHAINS if self.by_lane else _CHAINS

    def vectors(self, height: int) -> tuple[int, ...]:
        """The widths for a tile of so many rows: more where there are fewer rows, up to a whole panel."""
        widths = self.widths
        while not self.covers and height * len(widths) * 2 <= self.chains and sum(widths) * 2 <= PANEL:
            widths *= 2
        return widths

    def unroll(self, height: int) -> int:
        """Steps of the reduction with sums of their own, so that there are enough independent ones."""
        count = 1
        while height * len(self.vectors(height)) * count * 2 <= self.chains:
            count *= 2
        return count

    def cover(self, counts: Iterable[int], *, padded: bool) -> Cover:
        """The quickest tiles for blocks of these row counts.

        padded: rows behind the last one may be read, so that one height may do for all rows, or few for many counts."""
        counts = list(counts)
        exact = self._exact(counts)
        if not padded:
            return exact
        if len(counts) > FEW_COUNTS:
            return Cover(exact.full, (), ROUNDED_HEIGHT) if len(exact.rest) > 1 else exact
        heights = range(exact.full, exact.full // 2, -1)
        return min((exact, *(Cover(height, (), height) for height in heights)), key=lambda cover: cover.time(counts))

    def _exact(self, counts: list[int]) -> Cover:
        rows = min(self.rows, max(counts))
        return Cover(rows, tuple(power for power in (8, 4, 2, 1) if any(count % rows & power for count in counts)))

    def fills(self, columns: int | None) -> bool:
        """Whether every vector of a product with so many columns is used in full."""
        if columns is None:
            return False
        return sum(self.widths) == columns if self.covers else columns % PANEL == 0


def _narrow(lanes: int, columns: int) -> RegisterTile:
    """For a single panel."""
    if lanes == 16:
        widths = tuple(min(16, -(-(columns - first) // 8) * 8) for first in range(0, columns, 16))
        return RegisterTile(widths, 8 if sum(widths) == PANEL else 12, True)
    count = -(-columns // lanes)
    return (
        RegisterTile((lanes,) * count, _SUMS // count, True) if count <= 3 else RegisterTile((lanes, lanes), _SUMS // 2)
    )


def _of_lanes(lanes: int, columns: int | None, decoded: bool) -> RegisterTile:
    """For machines that multiply by a lane: all columns of a single panel, otherwise passes."""
    covers = columns is not None and columns <= PANEL
    count = -(-columns // lanes) if covers and columns is not None else 2 if decoded else 4
    room = _LANE_REGISTERS - 1 - (_DECODE_REGISTERS if decoded else 0)
    rows = next(rows for rows in _LANE_ROWS if rows * (count + 1) <= room)
    return RegisterTile((lanes,) * count, rows, covers, by_lane=True)
