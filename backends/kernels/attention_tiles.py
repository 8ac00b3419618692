"""Tiles of an attention kernel that go side by side over the keys, and which blocks of keys they visit.

Each block comes into the cache once for all of them, where one tile after the other would stream the keys and values of
its head from memory. Every tile sees the same blocks in the same order whatever its neighbours are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from nomul.backends.attention_span import along
from nomul.backends.frame import KernelFrame
from nomul.backends.kernels.attention_rules import HiddenKeys
from nomul.backends.tir.body import index, let, local, loop, store, when
from nomul.backends.tir.register_tile import PANEL
from nomul.ir.graph import Value

KEYS = 64  # of a block: its scores [64, 32] and 64 rows of K stay in the first-level cache
MEMBERS = 8  # tiles side by side

Expr = Any


@dataclass(frozen=True)
class Tile:
    """What one tile works on: batch and head, the first of its queries and how many there are. at: where what is its
    own in scratch begins."""

    batch: Expr
    head: Expr
    first: Expr
    count: Expr
    at: Expr


@dataclass(frozen=True)
class Neighbours:
    """Tiles [block, block + members) of one head. queries: of the head. place, size: where in scratch what is the first
    tile's own begins, and how large it is."""

    batch: Expr
    head: Expr
    block: Expr
    members: Expr
    queries: Expr
    place: int
    size: int

    @contextmanager
    def each(self) -> Iterator[Tile]:
        with loop("member", self.members) as member:
            first = let("first", (self.block + member) * PANEL)
            count = let("count", tirx.min(index(PANEL), self.queries - first))
            yield Tile(self.batch, self.head, first, count, let("at", member * self.size + self.place))

    @property
    def first(self) -> Expr:
        """The first query."""
        return let("first", self.block * PANEL)

    @property
    def last(self) -> Expr:
        """The last query."""
        return let("last", tirx.min((self.block + self.members) * PANEL, self.queries) - 1)


class Visits:
    """Make it outside of loops: it owns registers. tiles: the mask of tiles of `side` tokens, or None."""

    def __init__(self, frame: KernelFrame, hidden: HiddenKeys, tiles: Value | None, side: int) -> None:
        self.frame, self.hidden, self.tiles, self.side = frame, hidden, tiles, side
        self.ahead = local("ahead", "int64", 2)  # from a block to the next; 0 but for the first tile, and the second
        self._pending = local("pending", "int64", 1)  # the last block that is kept
        self._wanted = local("wanted", "int64", 1)

    def blocks(self, group: Neighbours, work: Callable[[Tile, Expr], None]) -> None:
        """work(tile, first key): for each block of keys, each tile that may see some of it."""
        first, end = self.hidden.hull(group.batch, group.first, group.last)
        seen, begin = let("seen", end), let("first_block", tirx.truncdiv(first, index(KEYS)))
        count = let("blocks", tirx.truncdiv(seen + (KEYS - 1), index(KEYS)) - begin)
        if self.tiles is not None:
            self._kept(group, begin, count, seen, work)
            return
        with loop("block", count, begin) as block:
            self._block(group, let("start", block * KEYS), index(KEYS), work)

    def _block(self, group: Neighbours, start: Expr, ahead: Expr, work: Callable[[Tile, Expr], None]) -> None:
        store(self.ahead, 0, ahead)
        store(self.ahead, 1, index(0))
        with group.each() as tile, self._where_seen(tile, start):
            work(tile, start)
            store(self.ahead, 1, self.ahead[0])
            store(self.ahead, 0, index(0))

    def _kept(
        self, group: Neighbours, begin: Expr, count: Expr, seen: Expr, work: Callable[[Tile, Expr], None]
    ) -> None:
        """Blocks that the mask of tiles keeps; work on one starts when the next is known, which it brings near."""
        store(self._pending, 0, index(-1))
        with loop("block", count + 1, begin) as block:
            start = let("start", tirx.max(index(0), tirx.min(block * KEYS, seen - 1)))
            store(self._wanted, 0, tirx.Cast("int64", tirx.EQ(block, begin + count)))
            with group.each() as tile, self._where_seen(tile, start):
                store(self._wanted, 0, index(1))
            with when(self._wanted[0] != 0):
                with when(self._pending[0] >= 0):
                    waiting = let("waiting", self._pending[0])
                    ahead = let("ahead", (block - waiting) * KEYS)
                    self._block(group, let("start", waiting * KEYS), ahead, work)
                store(self._pending, 0, block)

    def _where_seen(self, tile: Tile, start: Expr) -> Any:
        conditions = [] if self.hidden.is_whole else [self.hidden.sees(tile, start, KEYS)]
        if self.tiles is not None:
            places = [let("place", tirx.truncdiv(token, index(self.side))) for token in (tile.first, start)]
            lead = (along(self.tiles, 0, tile.batch), along(self.tiles, 1, tile.head))
            conditions.append(self.frame.read(self.tiles, (*lead, *places)))
        if not conditions:
            return nullcontext()
        return when(conditions[0] if len(conditions) == 1 else tirx.And(*conditions))
