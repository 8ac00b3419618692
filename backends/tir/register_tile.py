"""How one instruction-set level covers a block of rows x 32 columns of a product with its vector registers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nomul.backends.target import Target

PANEL = 32  # columns of a weight panel, the same on every level (backends/layouts/panel32.py)
_CHAINS = 8  # independent sums that keep two multiply-adders of latency 4 busy
_SUMS = 12  # vector registers for sums, of 16


@dataclass(frozen=True)
class RegisterTile:
    """widths: lanes of the vectors side by side that one pass over a panel takes.  rows: of a full tile.

    covers: one pass takes all columns that are used; otherwise passes follow each other until the panel is done."""

    widths: tuple[int, ...]
    rows: int
    covers: bool = False

    @staticmethod
    def of(target: Target, columns: int | None, *, decoded: bool = False) -> RegisterTile:
        """The tile for a product with so many columns (None: not known when compiling).

        With 64-byte vectors 8 x 32, but 12 x 16 where that leaves fewer columns of the last panel unused, and 12 x 32
        where weights are decoded, so that each is less often; with shorter vectors 6 x 2 of them. A single panel is
        taken only as far as it is used, in vectors of half the width too: many AVX-512 machines save time by that."""
        lanes = target.vector_bytes // 4
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

    def vectors(self, height: int) -> tuple[int, ...]:
        """The widths for a tile of so many rows: more where there are fewer rows, up to a whole panel."""
        widths = self.widths
        while not self.covers and height * len(widths) * 2 <= _CHAINS and sum(widths) * 2 <= PANEL:
            widths *= 2
        return widths

    def unroll(self, height: int) -> int:
        """Steps of the reduction with sums of their own, so that there are enough independent ones."""
        count = 1
        while height * len(self.vectors(height)) * count * 2 <= _CHAINS:
            count *= 2
        return count

    def heights(self, counts: Iterable[int]) -> list[int]:
        """Tile heights that cover each of these row counts exactly: the full height, then powers of two."""
        counts = list(counts)
        rows = min(self.rows, max(counts))
        powers = [power for power in (8, 4, 2, 1) if any(count % rows & power for count in counts)]
        return [rows, *powers]

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
