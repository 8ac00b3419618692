"""Masks that let a query see itself and earlier keys only: where that is certain, attention needs no mask for it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter

HIDDEN = -1e4  # a score lowered by this much has no weight left in a row where another score is not


class CausalMask(NodeRule):
    """attention with mask "key t <= query s" -> attention {causal}; other parts of a bool mask stay its mask."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        mask = node.args[3] if len(node.args) > 3 else None
        if mask is None or node.attrs["offset"] != 0 or node.attrs["block"] != 1 or node.attrs["prefix"] != 0:
            return None
        q, k = node.args[0], node.args[1]
        assert q is not None and k is not None
        visible = mask if mask.dtype is DType.BOOL else _visible(g, mask)
        if visible is None:
            return None
        judge = _Judge((q.shape[1], k.shape[1]), g.module.dims)
        parts = [(part, judge.verdict(part)) for part in conjuncts(visible)]
        if all(verdict == "unknown" for _, verdict in parts):
            return None
        rest = [part for part, verdict in parts if verdict == "unknown"]
        if mask.dtype is not DType.BOOL and rest:
            raise NoMatch("the additive mask hides more than later keys: a row without any key would differ", mask)
        causal = node.attrs["causal"] or any(verdict == "causal" for _, verdict in parts)
        kept = None
        for part in rest:
            kept = part if kept is None else g.ew.and_(kept, part)
        return g.nn.attention(*node.args[:3], kept, *node.args[4:], **(node.attrs | {"causal": causal}))


def _visible(g: Rewriter, mask: Value) -> Value | None:
    """The condition of an additive mask where(condition, 0, hidden), or None."""
    array = known_array(mask)
    if array is not None and array.ndim >= 2 and ((array == 0) | (array <= HIDDEN)).all():
        return g.weight("visible", array == 0)
    where = produced_by(mask, "ew.where")
    if where is None:
        return None
    condition, x, y = where.args
    if number(x) == 0 and _hides(y):
        return condition
    return g.ew.not_(condition) if number(y) == 0 and _hides(x) else None


def _hides(value: Value | None) -> bool:
    given = number(value)
    return given is not None and -inf <= given <= HIDDEN


def conjuncts(value: Value) -> list[Value]:
    """The parts of a and b and c, expansions between them looked through."""
    node = value.producer
    if node is not None and node.op == "ew.and":
        return [part for arg in node.args if arg is not None for part in conjuncts(arg)]
    if node is not None and node.op == "view.expand" and node.args[0] is not None:
        inner = conjuncts(node.args[0])
        return inner if len(inner) > 1 else [value]
    return [value]


@dataclass(frozen=True)
class _Index:
    """query * s + key * t + offset, for query index s and key index t."""

    query: int
    key: int
    offset: Dim

    def minus(self, other: _Index) -> _Index:
        return _Index(self.query - other.query, self.key - other.key, self.offset - other.offset)


Verdict = Literal["causal", "always", "unknown"]


@dataclass(frozen=True)
class _Judge:
    """sizes: (queries, keys) of the scores.  ranges: of the module's dims."""

    sizes: tuple[Dim, Dim]
    ranges: dict[str, Range]

    def verdict(self, value: Value) -> Verdict:
        """What a bool value that broadcasts to [..., S, T] says about keys and queries."""
        if isinstance(value, Constant):
            return "always" if value.value else "unknown"
        array = known_array(value)
        if array is not None:
            return self._array_verdict(array)
        if (expand := produced_by(value, "view.expand")) and expand.args[0] is not None:
            return self.verdict(expand.args[0])
        if (full := produced_by(value, "make.full")) is not None:
            return "always" if full.attrs["value"] else "unknown"
        node = produced_by(value, "ew.le", "ew.lt", "ew.ge", "ew.gt")
        return self._comparison_verdict(node) if node else "unknown"

    def _array_verdict(self, array: np.ndarray) -> Verdict:
        if array.all():
            return "always"
        if array.ndim < 2 or array.shape[-2:] != tuple(size.value for size in self.sizes):
            return "unknown"
        earlier = np.tri(*array.shape[-2:], dtype=np.bool_)
        return "causal" if bool((array == earlier).all()) else "unknown"

    def _comparison_verdict(self, node: Node) -> Verdict:
        left, right = (self._index(arg) for arg in node.args)
        if left is None or right is None:
            return "unknown"
        if node.op in ("ew.ge", "ew.gt"):
            left, right = right, left
        excess = left.minus(right)  # the condition holds where excess <= 0
        if node.op in ("ew.lt", "ew.gt"):
            excess = _Index(excess.query, excess.key, excess.offset + 1)
        if excess == _Index(-1, 1, Dim.of(0)):
            return "causal"
        return "always" if self._largest(excess).bounds(self.ranges)[1] <= 0 else "unknown"

    def _largest(self, index: _Index) -> Dim:
        total = index.offset
        for factor, size in zip((index.query, index.key), self.sizes, strict=True):
            total = total + (size - 1) * factor if factor > 0 else total
        return total

    def _index(self, value: Value | None) -> _Index | None:
        """An integer value as a function of query and key index."""
        given = number(value)
        if given is not None:
            return _Index(0, 0, Dim.of(int(given))) if given == int(given) else None
        node = value.producer if value is not None else None
        if node is None or value is None:
            return self._array_index(known_array(value))
        if node.op == "make.size":
            return _Index(0, 0, node.attrs["size"])
        if node.op in ("ew.cast", "view.expand"):
            return self._index(node.args[0])
        if node.op in ("ew.add", "ew.sub"):
            left, right = (self._index(arg) for arg in node.args)
            if left is None or right is None:
                return None
            zero = _Index(0, 0, Dim.of(0))
            return left.minus(right if node.op == "ew.sub" else zero.minus(right))
        if node.op == "view.reshape":
            maker = produced_by(node.args[0], "make.iota")
            return self._along(maker, value) if maker else None
        return self._along(node, value) if node.op == "make.iota" else None

    def _along(self, iota: Node, value: Value) -> _Index | None:
        """An iota along the query or the key axis of `value`."""
        step, start = iota.attrs["step"], iota.attrs["start"]
        long = [axis - value.type.rank for axis, size in enumerate(value.shape) if size != ONE]
        if len(long) != 1 or long[0] < -2:
            return None
        if value.shape[long[0]] != self.sizes[long[0] + 2]:
            return None
        return _Index(step, 0, start) if long[0] == -2 else _Index(0, step, start)

    def _array_index(self, array: np.ndarray | None) -> _Index | None:
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
        return _Index(step, 0, start) if axis == -2 else _Index(0, step, start)
