"""Masks that hide whole blocks of scores."""

from __future__ import annotations

from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import TILES
from nomul.ir.types import DType
from nomul.passes.contraction import arranged, contraction
from nomul.passes.contraction_axes import Label
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

TILE = 64  # kernels skip tiles of so many tokens, or of a multiple


class BlockMask(NodeRule):
    """attention with a bool mask that repeats one number for each block of queries and keys -> attention {tiles}, which
    skips the blocks that are hidden."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        mask = node.operand(3)
        if mask is None or mask.dtype is not DType.BOOL or node.operand(TILES) is not None or mask.type.rank < 2:
            return None
        found = contraction(mask, g.module.dims)
        if len(found.factors) != 1 or found.is_made:
            return None
        (inner,), (rows, columns) = found.factors, found.axes[-2:]
        blocks = [_block(axis, inner.labels) for axis in (rows, columns)]
        if None in blocks:
            return None
        if blocks[0] != blocks[1]:
            raise NoMatch(f"blocks of {blocks[0]} queries and of {blocks[1]} keys", mask)
        lead = [labels[0] if labels else None for labels in ((), (), *found.axes[:-2])[-2:]]
        kept = {label for label in (*lead, rows[0], columns[0]) if label is not None}
        if any(len(labels) > 1 for labels in found.axes[:-2]) or inner.labels != kept:
            return None
        tiles = arranged(g, inner, inner.value, (), (*lead, rows[0], columns[0]))
        tiles = g.view.reshape(tiles, shape=tiles.shape[1:])
        operands = [node.operand(position) for position in range(TILES)]
        return g.nn.attention(*operands[:3], None, *operands[4:], tiles, **(node.attrs | {"tile": blocks[0]}))


def _block(axis: tuple[Label, ...], labels: frozenset[Label]) -> int | None:
    """How many places of an axis share a number, if they are tiles: it is (block, place), the number has the first."""
    if len(axis) != 2 or axis[0].root() not in labels or axis[1].root() in labels:
        return None
    size = axis[1].size.value
    return size if size and size % TILE == 0 else None
