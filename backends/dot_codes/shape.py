"""In what order kernels read the numbers of `backends/dot_codes`: panels of 64 rows, in the order of the sum.

A vector of 64 bytes holds for 16 rows four neighbouring columns in each of its planes (one field of each byte):

    bits   8                  4                            2                            1
    byte   one number         low, high nibble             four numbers                 eight numbers
    lane r: columns 0..3      columns 0..3, 4..7           0..3, 4..7, 8..11, 12..15    0..3, .. , 28..31   of row r

A panel is [groups, terms, parts, units, vectors, 4 blocks of 16 rows, 16 rows, 4 bytes]. A unit is as many columns as a
vector of the narrowest field of any part holds; a part's vectors of a unit stand field by field, lowest bits first.
Palettes stand before the units: for each field a vector for all rows, in the lane of a row the four bytes of its group.
Groups of columns are padded to whole units with zeros. So all that a panel needs is one run of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nomul.backends.dot_codes import Codes

PANEL = 64  # rows of the weights
BLOCK = 16  # rows of a vector of 64 bytes
RUN = 4  # neighbouring columns of one plane


@dataclass(frozen=True)
class DotShape:
    """Sizes of packed weights. Offsets count 32-bit elements, of which a vector for all rows of a panel has 64.

    given: columns of a unit, where it is not as many as a vector of the narrowest field of any part holds."""

    codes: Codes
    rows: int
    columns: int
    groups: int
    given: int = 0

    @property
    def panels(self) -> int:
        return -(-self.rows // PANEL)

    @property
    def blocks(self) -> int:
        """Of 16 rows, that have some: fewer than a panel has where there is but one."""
        return -(-min(self.rows, PANEL) // BLOCK)

    @property
    def size(self) -> int:
        """Columns of a group."""
        return self.columns // self.groups

    @cached_property
    def unit(self) -> int:
        """Columns."""
        return self.given or 32 // min(width for part in self.codes.parts for width in part)

    @property
    def units(self) -> int:
        """Of a group."""
        return -(-self.size // self.unit)

    @property
    def padded(self) -> int:
        """Columns of a group with its padding."""
        return self.units * self.unit

    @property
    def is_padded(self) -> bool:
        return self.padded != self.size

    def sums_fit(self, largest: int) -> bool:
        """Whether 32 bits hold the sums of a group for rows of integers of at most this magnitude."""
        return largest * max(self.codes.largest, 255) * self.size < 2**31

    def vectors(self, part: int) -> int:
        """Of a unit of a part."""
        return sum(self.unit * width // 32 for width in self.codes.parts[part])

    @property
    def palettes(self) -> int:
        """Vectors that stand before the units of a part."""
        return len(self.codes.parts[0]) if self.codes.palettes else 0

    def part_offset(self, part: int) -> int:
        """Where a part begins inside a term of a group."""
        return sum((self.palettes + self.units * self.vectors(before)) * PANEL for before in range(part))

    @property
    def term_stride(self) -> int:
        return self.part_offset(len(self.codes.parts))

    @property
    def group_stride(self) -> int:
        return self.codes.terms * self.term_stride

    @property
    def panel_stride(self) -> int:
        return self.groups * self.group_stride
