"""Masks that follow from the places of query and key alone: where that is certain, attention needs no mask for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np

from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.ops.attention import LENGTHS, TILES
from nomul.ir.shapes import ONE, Shape
from nomul.ir.types import DType
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

_OPPOSITES = ("ew.le", "ew.lt", "ew.ge", "ew.gt")
HIDDEN = -1e4  # a score lowered by this much has no weight left in a row where another score is not


class CausalMask(NodeRule):
    """attention with a mask by places ("key t <= query s", windows, blocks, prefixes) -> attention {causal, ...}; other
    parts of a bool mask stay its mask."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        mask = node.operand(3)
        if mask is None or node.attrs["offset"] != 0 or node.attrs["block"] != 1 or node.attrs["prefix"] != 0:
            return None
        q, k = node.args[0], node.args[1]
        assert q is not None and k is not None
        found = Hiding(mask) if mask.dtype is DType.BOOL else hiding(g, mask)
        if found is None:
            return None
        judge = Judge((q.shape[1], k.shape[1]), g.module.dims)
        parts = [(part, shape, judge.facts(part)) for part, shape in conjuncts(found.visible)]
        attrs = _combined(node.attrs, [facts for *_, facts in parts if facts])
        rest = [(part, shape) for part, shape, facts in parts if facts is None or not facts.told_by(attrs)]
        if len(rest) == len(parts):
            return None
        if found.hidden != -inf:
            _check_rows(node, attrs, g.module.dims, bool(rest), mask)
        kept = None
        for part, shape in rest:
            part = part if part.shape == shape else g.view.reshape(part, shape=shape)
            kept = part if kept is None else g.ew.and_(kept, part)
        if found.bias is not None:
            kept = found.bias if kept is None else g.ew.where(kept, found.bias, -inf)
        return g.nn.attention(*node.args[:3], kept, *node.args[4:], **attrs)


def _check_rows(node: Node, attrs: dict[str, Any], ranges: dict[str, Range], is_part: bool, mask: Value) -> None:
    """Raises NoMatch where a query may see no key: all keys that a finite number hides weigh the same to it then."""
    if is_part:
        raise NoMatch("the additive mask hides more than later keys: a row without any key would differ", mask)
    q, k = node.args[:2]
    assert q is not None and k is not None
    if attrs["window"] and (q.shape[1] - k.shape[1]).bounds(ranges)[1] > 0:
        raise NoMatch("queries behind the last key see none in a window: the additive mask would give them all", mask)
    if node.operand(LENGTHS) is not None or node.operand(TILES) is not None:
        raise NoMatch("a query may see no key at all: the additive mask would give it all that it hides", mask)


@dataclass(frozen=True)
class Hiding:
    """hidden: what is added to scores where the bools `visible` are false; bias: what is added to the others."""

    visible: Value
    hidden: float = -inf
    bias: Value | None = None


def _combined(attrs: dict[str, Any], found: list[Facts]) -> dict[str, Any]:
    """Attributes that say as much as they can of what parts of a mask say together."""
    attrs = dict(attrs)
    wider = [facts for facts in found if facts.block > 1 or facts.prefix is not None]
    plain = attrs["causal"] or any(facts.causal for facts in found)
    if plain or wider:
        attrs["causal"] = True
    if not plain and wider:
        attrs["block"] = wider[0].block
        attrs["prefix"] = wider[0].prefix or Dim.of(0)
    earlier, later = (
        [getattr(facts, side) for facts in found if getattr(facts, side)] for side in ("earlier", "later")
    )
    if attrs["window"] or wider or not earlier:
        return attrs
    if plain or earlier == later[:1]:
        attrs["window"] = min(earlier)
    return attrs


def hiding(g: Rewriter, mask: Value) -> Hiding | None:
    """An additive mask where(condition, bias or 0, hidden), or None."""
    array = known_array(mask)
    if array is not None and array.ndim >= 2 and ((array == 0) | (array <= HIDDEN)).all():
        return Hiding(g.weight("visible", array == 0), float(array.max(where=array != 0, initial=-inf)))
    where = produced_by(mask, "ew.where")
    if where is None:
        return None
    condition, x, y = where.args
    assert condition is not None
    for seen, hidden, is_inverted in ((x, y, False), (y, x, True)):
        lowest, value = number(hidden), number(seen)
        if lowest is None or not -inf <= lowest <= HIDDEN or (value is not None and value != 0):
            continue
        return Hiding(g.ew.not_(condition) if is_inverted else condition, lowest, None if value == 0 else seen)
    return None


def conjuncts(value: Value) -> list[tuple[Value, Shape]]:
    """The parts of a and b and c, expansions and new axes between them looked through, each with the shape that it has
    as a part of the whole."""
    node = value.producer
    if node is not None and node.op == "ew.and":
        return [part for arg in node.args if arg is not None for part in conjuncts(arg)]
    source = node.args[0] if node is not None and node.op in ("view.expand", "view.reshape") else None
    inner = conjuncts(source) if source is not None else []
    if len(inner) < 2 or source is None or source.shape[-2:] != value.shape[-2:]:
        return [(value, value.shape)]
    if produced_by(value, "view.expand"):
        return inner
    wider = [_with_new_axes(shape, source.shape, value.shape) for _, shape in inner]
    return (
        [(part, shape) for (part, _), shape in zip(inner, wider, strict=True) if shape]
        if all(wider)
        else [(value, value.shape)]
    )


def _with_new_axes(shape: Shape, source: Shape, target: Shape) -> Shape | None:
    """The shape, which broadcasts to `source`, after a reshape of that to `target` by axes of size 1, or None."""
    sizes = iter((ONE,) * (len(source) - len(shape)) + shape)
    kept = [(whole, next(sizes)) for whole in source]
    kept = [(whole, size) for whole, size in kept if whole != ONE]
    if [whole for whole, _ in kept] != [size for size in target if size != ONE]:
        return None
    own = iter(size for _, size in kept)
    return tuple(ONE if size == ONE else next(own) for size in target)


@dataclass(frozen=True)
class Index:
    """query * s + key * t + offset, for query index s and key index t."""

    query: int
    key: int
    offset: Dim

    def minus(self, other: Index) -> Index:
        return Index(self.query - other.query, self.key - other.key, self.offset - other.offset)


@dataclass(frozen=True)
class Facts:
    """What a mask says of query s and key t, all of it together: causal: t <= s.  earlier, later (0: nothing): s - t <
    earlier, t - s < later.  block > 1: t // block <= s // block.  prefix: t <= s or t < prefix."""

    causal: bool = False
    earlier: int = 0
    later: int = 0
    block: int = 1
    prefix: Dim | None = None

    def told_by(self, attrs: dict[str, Any]) -> bool:
        """Whether attention with these attributes hides all that this hides."""
        plain = attrs["causal"] and attrs["block"] == 1 and attrs["prefix"] == 0
        wide = plain or (self.block, self.prefix or Dim.of(0)) == (attrs["block"], attrs["prefix"])
        earlier = not self.earlier or 0 < attrs["window"] <= self.earlier
        later = not self.later or plain or 0 < attrs["window"] <= self.later
        return (plain or not self.causal) and wide and earlier and later


NOTHING_HIDDEN = Facts()


@dataclass(frozen=True)
class Judge:
    """sizes: (queries, keys) of the scores.  ranges: of the module's dims."""

    sizes: tuple[Dim, Dim]
    ranges: dict[str, Range]

    def facts(self, value: Value) -> Facts | None:
        """What a bool value that broadcasts to [..., S, T] says by places alone, or None."""
        if isinstance(value, Constant):
            return NOTHING_HIDDEN if value.value else None
        array = known_array(value)
        if array is not None:
            return self._array_facts(array)
        if (expand := produced_by(value, "view.expand")) and expand.args[0] is not None:
            return self.facts(expand.args[0])
        if (full := produced_by(value, "make.full")) is not None:
            return NOTHING_HIDDEN if full.attrs["value"] else None
        if (either := produced_by(value, "ew.or")) is not None:
            return self._prefix_facts(either)
        if (inverse := produced_by(value, "ew.not")) is not None and inverse.args[0] is not None:
            return self.opposite(inverse.args[0])
        node = produced_by(value, "ew.le", "ew.lt", "ew.ge", "ew.gt")
        return (self._block_facts(node) or self._comparison_facts(node)) if node else None

    def opposite(self, value: Value) -> Facts | None:
        """What it says by places alone that a comparison does not hold, or None."""
        array, node = known_array(value), produced_by(value, *_OPPOSITES)
        if array is not None:
            return self._array_facts(~array)
        if (inverse := produced_by(value, "ew.not")) is not None and inverse.args[0] is not None:
            return self.facts(inverse.args[0])
        if node is None:
            return None
        excess = self._excess(node)  # holds where it is at most 0, so not where its negative plus 1 is
        return None if excess is None else self._limit_facts(Index(0, 0, Dim.of(1)).minus(excess))

    def _array_facts(self, array: np.ndarray) -> Facts | None:
        if array.all():
            return NOTHING_HIDDEN
        if array.ndim < 2 or array.shape[-2:] != tuple(size.value for size in self.sizes):
            return None
        seen = array.reshape(-1, *array.shape[-2:])[0]
        if not (array == seen).all() or not seen[0, 0]:
            return None
        queries, keys = np.arange(seen.shape[0])[:, None], np.arange(seen.shape[1])
        apart = queries - keys
        earlier, later = int(apart[seen].max()) + 1, int((-apart)[seen].max()) + 1
        if (seen == ((apart < earlier) & (-apart < later))).all():
            is_causal = later == 1
            limits = (earlier if earlier < len(queries) else 0, later if later < len(keys) and not is_causal else 0)
            return Facts(is_causal, *limits)
        first = int(seen[0].sum())
        if (seen == (keys // first <= queries // first)).all():
            return Facts(block=first)
        return Facts(prefix=Dim.of(first)) if (seen == ((apart >= 0) | (keys < first))).all() else None

    def _excess(self, node: Node) -> Index | None:
        """A comparison holds where this is at most 0."""
        left, right = (self.index(arg) for arg in node.args)
        if left is None or right is None:
            return None
        if node.op in ("ew.ge", "ew.gt"):
            left, right = right, left
        excess = left.minus(right)
        return replace(excess, offset=excess.offset + 1) if node.op in ("ew.lt", "ew.gt") else excess

    def _comparison_facts(self, node: Node) -> Facts | None:
        excess = self._excess(node)
        return None if excess is None else self._limit_facts(excess)

    def _limit_facts(self, excess: Index) -> Facts | None:
        """What it says that this is at most 0."""
        if self._largest(excess).bounds(self.ranges)[1] <= 0:
            return NOTHING_HIDDEN
        limit = (1 - excess.offset).value
        if limit is None or limit < 1:
            return None
        if (excess.query, excess.key) == (-1, 1):
            return Facts(causal=True) if limit == 1 else Facts(later=limit)
        return Facts(earlier=limit) if (excess.query, excess.key) == (1, -1) else None

    def _block_facts(self, node: Node) -> Facts | None:
        """t // block <= s // block."""
        if node.op not in ("ew.le", "ew.ge"):
            return None
        key, query = (self._quotient(arg) for arg in (node.args if node.op == "ew.le" else node.args[::-1]))
        if key is None or query is None or key[1] != query[1]:
            return None
        places = (key[0], query[0]) == (Index(0, 1, Dim.of(0)), Index(1, 0, Dim.of(0)))
        return Facts(block=key[1]) if places else None

    def _quotient(self, value: Value | None) -> tuple[Index, int] | None:
        """(counter, divisor) of a counter that is divided by a number of 2 or more."""
        shown = produced_by(value, "view.reshape")
        node = produced_by(shown.args[0] if shown else value, "ew.floor_div")
        size = number(node.args[1]) if node else None
        if node is None or value is None or size is None or size < 2:
            return None
        counter = produced_by(node.args[0], "make.iota")
        index = self._along(counter, value) if counter else self.index(node.args[0])
        return (index, int(size)) if index is not None and (counter or not shown) else None

    def _prefix_facts(self, node: Node) -> Facts | None:
        """t <= s or t < prefix."""
        for one, other in (node.args, node.args[::-1]):
            low = produced_by(other, "ew.lt", "ew.le", "ew.gt", "ew.ge")
            if one is None or low is None or self.facts(one) != Facts(causal=True):
                continue
            excess = self._excess(low)
            if excess is not None and (excess.query, excess.key) == (0, 1):
                return Facts(prefix=1 - excess.offset)
        return None

    def _largest(self, index: Index) -> Dim:
        total = index.offset
        for factor, size in zip((index.query, index.key), self.sizes, strict=True):
            total = total + (size - 1) * factor if factor > 0 else total
        return total

    def index(self, value: Value | None) -> Index | None:
        """An integer value as a function of query and key index."""
        given = number(value)
        if given is not None:
            return Index(0, 0, Dim.of(int(given))) if given == int(given) else None
        node = value.producer if value is not None else None
        if node is None or value is None:
            return self._array_index(known_array(value))
        if node.op == "make.size":
            return Index(0, 0, node.attrs["size"])
        if node.op in ("ew.cast", "view.expand"):
            return self.index(node.args[0])
        if node.op in ("ew.add", "ew.sub"):
            left, right = (self.index(arg) for arg in node.args)
            if left is None or right is None:
                return None
            zero = Index(0, 0, Dim.of(0))
            return left.minus(right if node.op == "ew.sub" else zero.minus(right))
        if node.op == "view.reshape":
            maker = produced_by(node.args[0], "make.iota")
            return self._along(maker, value) if maker else None
        return self._along(node, value) if node.op == "make.iota" else None

    def _along(self, iota: Node, value: Value) -> Index | None:
        """An iota along the query or the key axis of `value`."""
        step, start = iota.attrs["step"], iota.attrs["start"]
        long = [axis - value.type.rank for axis, size in enumerate(value.shape) if size != ONE]
        if len(long) != 1 or long[0] < -2:
            return None
        if value.shape[long[0]] != self.sizes[long[0] + 2]:
            return None
        return Index(step, 0, start) if long[0] == -2 else Index(0, step, start)

    def _array_index(self, array: np.ndarray | None) -> Index | None:
        """A known array that counts up along the query or the key axis."""
        if array is None or array.ndim == 0 or array.size != max(array.shape):
            return None
        flat = array.reshape(-1).astype(np.int64)
        axis = int(np.argmax(array.shape)) - array.ndim
        if axis < -2 or flat.size < 2 or self.sizes[axis + 2] != flat.size:
            return None
        step = int(flat[1] - flat[0])
        if (np.diff(flat) != step).any():
            return None
        start = Dim.of(int(flat[0]))
        return Index(step, 0, start) if axis == -2 else Index(0, step, start)
