"""How a mask is added to the block of scores [keys, 32 queries] of an attention kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import tirx

from nomul.backends.emit import literal
from nomul.backends.frame import KernelFrame
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.register_tile import PANEL
from nomul.backends.tir.vectors import load, spread, store_vector
from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Value
from nomul.ir.types import DType
from nomul.ir.views import resolve

if TYPE_CHECKING:
    from nomul.backends.kernels.attention_tiles import Tile

Expr = Any


class Mask:
    """A mask that broadcasts to [batch, heads, queries, keys]: added where float, hiding where a bool is false."""

    def __init__(self, frame: KernelFrame, mask: Value) -> None:
        view = resolve(mask)
        assert view is not None, "refused before"
        self.frame, self.view, self.is_bool = frame, view, mask.dtype is DType.BOOL
        lead = 4 - len(mask.shape)
        sizes = (*(Dim.of(1),) * lead, *mask.shape)
        strides = (*(Dim.of(0),) * lead, *view.strides)
        self.strides = tuple(
            Dim.of(0) if size == Dim.of(1) else stride for size, stride in zip(sizes, strides, strict=True)
        )

    def apply(self, work: Any, tile: Tile, start: Expr, keys: Expr, queries: Expr, lanes: int) -> None:
        """Change the scores of `keys` keys from `start` on; they stand in `work`."""
        batch, head, query, key_stride = (self.frame.size(stride) for stride in self.strides)
        base = let("mask_base", self.frame.size(self.view.offset) + tile.batch * batch + tile.head * head)
        with loop("key", keys) as key:
            row = let("mask_row", base + (start + key) * key_stride)
            for column in range(0, PANEL, lanes):
                place = let("place", key * PANEL + column)
                mask = self._lanes(row, tile, column, query, queries, lanes)
                store_vector(work, place, self._masked(load(work, place, lanes), mask))

    def element(self, batch: Expr, head: Expr, query: Expr, key: Expr) -> Expr:
        """The mask's element for one score."""
        places = (batch, head, query, key)
        offset = sum(place * self.frame.size(stride) for place, stride in zip(places, self.strides, strict=True))
        return self._read(self.frame.size(self.view.offset) + offset)

    def _read(self, place: Expr) -> Expr:
        source = self.view.source
        return literal(source) if isinstance(source, Constant) else self.frame.read_flat(source, place)

    def _masked(self, score: Expr, mask: Expr) -> Expr:
        if not self.is_bool:
            return score + mask
        hidden = tirx.FloatImm("float32", float("-inf"))
        return tirx.Select(mask, score, spread(hidden, int(score.ty.dtype.lanes)))

    def _lanes(self, row: Expr, tile: Tile, column: int, stride: Expr, queries: Expr, lanes: int) -> Expr:
        """The mask's elements for `lanes` queries; lanes without a query repeat the last one."""
        if self.strides[2] == Dim.of(0):
            element = let("mask", self._read(row))
            return spread(element, lanes)
        places = [tirx.min(tile.first + (column + lane), queries - index(1)) for lane in range(lanes)]
        elements = [self._read(row + place * stride) for place in places]
        return let("mask", tirx.Shuffle(elements, [tirx.const(lane) for lane in range(lanes)]))
