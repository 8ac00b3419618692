"""How one instruction-set level covers a block of rows x 32 columns of a product with its vector registers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nomul.backends.target import Target

PANEL = 32  # columns of a weight panel, the same on every level (backends/layouts/panel32.py)
_CHAINS = 8  # independent sums that keep two multiply-adders of latency 4 busy


@dataclass(frozen=True)
class RegisterTile:
    """lanes: f32 per vector.  columns: of one pass over a panel.  rows: of a full tile."""

    lanes: int
    columns: int
    rows: int

    @staticmethod
    def of(target: Target, columns: int | None, *, decoded: bool = False) -> RegisterTile:
        """The tile for a product with so many columns (None: not known when compiling).

        8 x 32 with 64-byte vectors, but 12 x 16 where that leaves fewer columns of the last panel unused, and 12 x 32
        where weights are decoded, so that each is less often; 6 x 16 with 32-byte vectors; 6 x 8 with 16-byte ones."""
        lanes = target.vector_bytes // 4
        if lanes < 16:
            return RegisterTile(lanes, 2 * lanes, 6)
        if columns is not None and 0 < columns % PANEL <= 16 and columns < 8 * PANEL:
            return RegisterTile(lanes, 16, 12)
        return RegisterTile(lanes, 32, 12 if decoded else 8)

    def vectors(self, rows: int) -> int:
        """Vectors side by side for a tile of so many rows: more where there are fewer rows, up to a whole panel."""
        count = self.columns // self.lanes
        while rows * count * 2 <= _CHAINS and count * 2 * self.lanes <= PANEL:
            count *= 2
        return count

    def unroll(self, rows: int) -> int:
        """Steps of the reduction with sums of their own, so that there are enough independent ones."""
        count = 1
        while rows * self.vectors(rows) * count * 2 <= _CHAINS:
            count *= 2
        return count

    def heights(self, counts: Iterable[int]) -> list[int]:
        """Tile heights that cover each of these row counts exactly: the full height, then powers of two."""
        counts = list(counts)
        rows = min(self.rows, max(counts))
        powers = [power for power in (8, 4, 2, 1) if any(count % rows & power for count in counts)]
        return [rows, *powers]
