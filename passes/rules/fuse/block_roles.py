"""Who is who in block-sparse attention, and in products of its queries, keys, values and ranks of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import TILES
from nomul.ir.shapes import ONE, Shape
from nomul.passes.contraction import Contraction, Factor, contraction
from nomul.passes.contraction_axes import Axes, Label, Misfit, fresh, regrouped
from nomul.passes.ranked_blocks import Ranked, ranked
from nomul.passes.rule import NoMatch, Rewriter
from nomul.passes.rules.fuse.linear_attention import behind_views, map_of

Names = dict[Label, Label]  # what labels of a product are called in the attention


@dataclass(frozen=True)
class Roles:
    """Attention whose tiles are blocks of tokens: its operands with the labels b, (i, r) or (j, c), h, d or e."""

    attention: Node
    q: Factor
    k: Factor
    v: Factor
    result: Axes
    tiles: Factor
    ranks: Ranked

    @staticmethod
    def of(g: Rewriter, attention: Node) -> Roles | None:
        """None where no ranks make the tiles. Raises Misfit where the tokens are not whole blocks."""
        q, k, v = attention.args[:3]
        tiles = attention.operand(TILES)
        assert q is not None and k is not None and v is not None and tiles is not None
        if not q.shape[2] == k.shape[2]:
            raise NoMatch("queries share heads of keys", k)
        b, i, r, h, d = (fresh(size) for size in _blocks(q, attention.attrs["tile"]))
        _, j, c, _, e = (fresh(size) for size in _blocks(v, attention.attrs["tile"]))
        own, keys, values = (
            _seen(g, *part) for part in ((q, (b, i, r, h, d)), (k, (b, j, c, h, d)), (v, (b, j, c, h, e)))
        )
        best = _seen(g, tiles, (b, h, i, j))
        ranks = ranked(best.value)
        if ranks is None or ranks.scores is None or list(ranks.numbers) != [True, False, False]:
            return None
        return Roles(attention, own, keys, values, (b, i + r, h, e), best, ranks)


def _blocks(x: Value, block: int) -> Shape:
    batch, tokens, heads, size = x.shape
    if not Dim.of(block).divides(tokens):
        raise Misfit
    return batch, tokens.divide_exactly(Dim.of(block)), Dim.of(block), heads, size


def _seen(g: Rewriter, x: Value, labels: Axes) -> Factor:
    """What views show as x, with these labels, one for each longer axis."""
    found = contraction(x, g.module.dims)
    axes, parts = regrouped(found.free, tuple(axis[0].size if axis else ONE for axis in labels))
    found = found.apart(parts, axes)
    if len(found.factors) != 1 or found.is_made or any(len(axis) > 1 for axis in axes):
        raise Misfit
    names = {axis[0].root(): label[0] for axis, label in zip(axes, labels, strict=True) if axis}
    inner = found.factors[0]
    return Factor(inner.value, tuple(tuple(names[label.root()] for label in axis) for axis in inner.axes))


@dataclass(frozen=True)
class Product:
    """A product of queries, keys (maps of both) and maybe values and ranks: its axes by the labels of the attention."""

    axes: Axes
    map: str
    numbers: np.ndarray  # times which it counts, by rank
    last: Dim  # so many blocks are the last ones


def product_of(
    g: Rewriter, term: Contraction, roles: Roles, operands: Sequence[Factor], wanted: Axes
) -> Product | None:
    """What a term is of these operands, q and k first, where its free labels are those of the wanted axes; or None."""
    if len(term.factors) not in (len(operands), len(operands) + 1) or term.divisors or term.added or term.order:
        return None
    for factors in permutations(term.factors):
        found = _matched(g, factors, roles, operands)
        if found is None:
            continue
        names, map, ranks = found
        if {names[label] for label in term.free} == {label for axis in wanted for label in axis}:
            axes = tuple(tuple(names[label.root()] for label in axis) for axis in term.axes)
            return Product(axes, map, ranks.numbers * term.scale, ranks.last)
    return None


def _matched(
    g: Rewriter, factors: Sequence[Factor], roles: Roles, operands: Sequence[Factor]
) -> tuple[Names, str, Ranked] | None:
    names: Names = {}
    maps, counted = set(), Ranked(np.ones(3))
    for place, (factor, operand) in enumerate(zip(factors, (*operands, roles.tiles), strict=False)):
        if place == len(operands):
            ranks = ranked(factor.value)
            pairs = _paired(factor.axes, operand.axes)
            if ranks is None or ranks.scores is not roles.ranks.scores:
                return None
            counted = replace(ranks, numbers=ranks.numbers.astype(float))
        else:
            pairs, map = _operand_names(g, factor, operand, mapped=place < 2)
            maps |= {map} if place < 2 else set()
        if pairs is None or any(names.setdefault(label, name) is not name for label, name in pairs):
            return None
    if len(set(names.values())) < len(names) or len(maps) > 1:
        return None
    return names, maps.pop(), counted


def _paired(axes: Axes, twins: Axes) -> list[tuple[Label, Label]] | None:
    """The labels of two values by place, or None."""
    if [len(axis) for axis in axes] != [len(axis) for axis in twins]:
        return None
    flat = [[label for axis in side for label in axis] for side in (axes, twins)]
    return [(one.root(), other) for one, other in zip(*flat, strict=True)]


def _operand_names(
    g: Rewriter, factor: Factor, operand: Factor, mapped: bool
) -> tuple[list[tuple[Label, Label]] | None, str]:
    """(what the labels of a factor are called in the operand that it is, or is a feature map of, or None; the map)."""
    if factor.value is operand.value or not mapped:
        return (_paired(factor.axes, operand.axes) if factor.value is operand.value else None), "identity"
    for label in factor.labels:
        map, inner = map_of(factor, label)
        seen = behind_views(g, factor, inner)
        if map != "identity" and seen.value is operand.value:
            return _paired(seen.axes, operand.axes), map
    return None, "identity"
