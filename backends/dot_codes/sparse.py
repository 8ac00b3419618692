"""In what order kernels read N of M weights: kept ones by windows of neighbouring blocks, in the units of `shape.py`.

A window is blocks of m columns, 16 columns at most, since a byte shuffle picks from 16 activations. Its kept weights,
and the place of each in its block, stand in dwords of four, the last filled up. A unit is windows that fill vectors:

    2 of 4    window: 16 columns, 4 blocks      |a0 a1 b0 b1|c0 c1 d0 d1|     2 dwords: what blocks a, b and c, d keep
    1 of 4    window: 16 columns, 4 blocks      |a b c d|
    2 of 3    window: 12 columns, 4 blocks      |a0 a1 b0 b1|c0 c1 d0 d1|     (5 blocks would ask for 3 dwords)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm

from nomul.backends.dot_codes import Codes, Summand
from nomul.backends.dot_codes.shape import RUN, DotShape

WINDOW = 16  # activations that a byte shuffle picks from


@dataclass(frozen=True)
class SparseShape:
    """Sizes of packed weights of which n of m are kept. codes: of the kept ones.  columns: with those that are not."""

    codes: Codes
    rows: int
    columns: int
    groups: int
    n: int
    m: int

    @cached_property
    def blocks(self) -> int:
        """Of a window: those that leave the fewest empty places, and of these the most."""
        return max(range(1, WINDOW // self.m + 1), key=lambda blocks: (-self._dwords(blocks) / blocks, blocks))

    def _dwords(self, blocks: int) -> int:
        return -(-blocks * self.n // RUN)

    @property
    def window(self) -> int:
        """Columns."""
        return self.blocks * self.m

    @property
    def dwords(self) -> int:
        """Of a window."""
        return self._dwords(self.blocks)

    @property
    def density(self) -> float:
        """Places for kept weights of each column."""
        return self.dwords * RUN / self.window

    @property
    def windows(self) -> int:
        """Of a group."""
        return -(-self.columns // self.groups // self.window)

    @cached_property
    def unit_windows(self) -> int:
        """Windows of a unit: dwords fill vectors of every field, and columns fill runs."""
        planes = 8 // min(width for part in (*self.codes.parts, self.place_widths) for width in part)
        return lcm(lcm(self.dwords, planes) // self.dwords, lcm(self.window, RUN) // self.window)

    @property
    def place_widths(self) -> tuple[int, ...]:
        """Fields of the place of a kept weight in its block."""
        return {1: (1,), 2: (2,), 3: (2, 1), 4: (4,)}[(self.m - 1).bit_length()]

    @cached_property
    def dense(self) -> DotShape:
        """All weights, as rows are prepared for them."""
        return DotShape(self.codes, self.rows, self.columns, self.groups, self.unit_windows * self.window)

    @cached_property
    def kept(self) -> DotShape:
        """The codes, with empty places."""
        return self._dwords_shape(self.codes)

    @cached_property
    def places(self) -> DotShape:
        return self._dwords_shape(Codes((self.place_widths,), (Summand(),), 0, self.m))

    def _dwords_shape(self, codes: Codes) -> DotShape:
        size = self.dwords * RUN
        return DotShape(codes, self.rows, self.groups * self.windows * size, self.groups, self.unit_windows * size)

    def slot(self, block: int, number: int) -> tuple[int, int]:
        """(dword, byte) of a kept weight of a block, counted from the begin of a unit."""
        window, inside = divmod(block, self.blocks)
        dword, byte = divmod(inside * self.n + number, RUN)
        return window * self.dwords + dword, byte

    def base(self, dword: int) -> list[int | None]:
        """For each byte of a dword of a window the first column of its block in the window; None: an empty place."""
        slots = range(dword * RUN, (dword + 1) * RUN)
        return [slot // self.n * self.m if slot < self.blocks * self.n else None for slot in slots]
