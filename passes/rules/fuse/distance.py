"""Biases of attention that depend on how far key and query are apart: one number per distance is enough (ALiBi, Press
et al. 2022; T5, Raffel et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.ops.attention import MASK, RELATIVE
from nomul.ir.shapes import ONE
from nomul.ir.types import DType
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import is_elementwise, number, produced_by
from nomul.passes.rule import NodeRule, NoMatch, Rewriter
from nomul.passes.rules.fuse.attention import NEGLIGIBLE
from nomul.passes.rules.fuse.causal import Index, Judge

COMPARISONS = ("ew.le", "ew.lt", "ew.ge", "ew.gt", "ew.eq", "ew.ne")


class DistanceBias(NodeRule):
    """attention whose mask adds f(t - s) -> attention with f for each distance once; what hides keys stays its mask."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        mask = node.operand(MASK)
        if mask is None or not mask.dtype.is_float or node.operand(RELATIVE) is not None:
            return None
        q, k = node.args[0], node.args[1]
        assert q is not None and k is not None
        sizes = (q.shape[1], k.shape[1])
        if sizes[0] == ONE or mask.shape[-2:] != sizes:
            return None
        distances = _Distances(g, sizes)
        found = _split(g, mask, distances)
        if found is None:
            if _is_made_of_places(mask):
                raise NoMatch("the bias does not depend on key - query alone", mask)
            return None
        bias, rest = found
        bias = g.view.reshape(bias, shape=_as_table(bias, q.shape[2]))
        return g.nn.attention(*node.args[:MASK], rest, bias, *node.args[RELATIVE + 1 :], **node.attrs)


def _as_table(bias: Value, heads: Dim) -> tuple[Dim, Dim]:
    """[H or 1, S + T - 1]. Raises NoMatch for a bias that differs in more than heads."""
    lead = [size for size in bias.shape[:-1] if size != ONE]
    if lead not in ([], [heads]) or (lead and bias.shape[-2] != heads):
        raise NoMatch(f"the bias {bias.type} differs in more than heads and distances", bias)
    return (lead[0] if lead else ONE, bias.shape[-1])


def _is_made_of_places(mask: Value) -> bool:
    """Whether a table is read for each pair of places, or slopes are multiplied with them: a near miss."""
    turn = produced_by(mask, "view.transpose")
    return produced_by(turn.args[0] if turn else mask, "index.gather") is not None


def _split(g: Rewriter, mask: Value, distances: _Distances) -> tuple[Value, Value | None] | None:
    """(f by distance, the rest of the mask) of a mask that is f, f + rest or where(seen, f, hidden)."""
    whole = distances.of(mask)
    if whole is not None:
        return whole, None
    if (total := produced_by(mask, "ew.add")) is not None:
        for one, other in (total.args, total.args[::-1]):
            found = distances.of(one)
            if found is not None and found.type.rank and other is not None and other.shape:
                return found, other
    where = produced_by(mask, "ew.where")
    if where is None:
        return None
    condition, x, y = where.args
    for seen, bias, hidden in ((condition, x, y), (condition, y, x)):
        low = number(hidden)
        if bias is None or seen is None or low is None or not low <= NEGLIGIBLE:
            continue
        found = distances.of(bias)
        if found is not None and found.type.rank:
            zero, nothing = Constant(0.0, mask.dtype), Constant(low, mask.dtype)
            kept = (zero, nothing) if bias is x else (nothing, zero)
            return found, g.ew.where(seen, *kept)
    return None


@dataclass
class _Distances:
    """Values [..., S, T] that depend on t - s alone, as values [..., S + T - 1]: place r is t - s = r - (S - 1)."""

    g: Rewriter
    sizes: tuple[Dim, Dim]

    @property
    def _judge(self) -> Judge:
        return Judge(self.sizes, self.g.module.dims)

    @property
    def count(self) -> Dim:
        return self.sizes[0] + self.sizes[1] - 1

    def of(self, value: Value | None) -> Value | None:
        """None for a value that depends on more, or is not known to."""
        if value is None or isinstance(value, Constant):
            return value
        array = known_array(value)
        if array is not None:
            return self._of_array(array)
        if value.type.rank < 2 or value.shape[-2:] in ((ONE, ONE), ()):
            return self._of_shared(value)
        if value.shape[-2:] != self.sizes:
            return None
        counted = self._of_counters(value)
        node = value.producer
        if counted is not None or node is None:
            return counted
        if is_elementwise(node):
            compared = self._of_comparison(node)
            if compared is not None:
                return compared
            args = [self.of(arg) for arg in node.args]
            return None if None in args else self.g.op(node.op, *args, **node.attrs)
        return self._of_view(node)

    def _of_shared(self, value: Value) -> Value | None:
        """The same for all places: [..., 1, 1] as [..., 1]."""
        if value.type.rank < 2:
            return value if value.type.numel == ONE else None
        return self.g.view.reshape(value, shape=value.shape[:-1])

    def _of_counters(self, value: Value) -> Value | None:
        """c * (t - s) + offset."""
        if value.dtype not in (DType.I64, DType.I32):
            return None
        return self._counted(self._judge.index(value), value.dtype) if value.type.rank == 2 else None

    def _counted(self, index: Index | None, dtype: DType) -> Value | None:
        if index is None or index.query != -index.key:
            return None
        start = index.offset - (self.sizes[0] - 1) * index.key
        return self.g.make.iota(size=self.count, start=start, step=index.key, dtype=dtype)

    def _of_comparison(self, node: Node) -> Value | None:
        """Counters of queries against counters of keys."""
        if node.op not in COMPARISONS or node.result.type.rank != 2:
            return None
        left, right = (self._judge.index(arg) for arg in node.args)
        if left is None or right is None or node.args[0] is None:
            return None
        counted = self._counted(left.minus(right), node.args[0].dtype)
        return counted and self.g.op(node.op, counted, 0)

    def _of_view(self, node: Node) -> Value | None:
        source = node.args[0] if node.args else None
        if source is None:
            return None
        if node.op == "view.reshape":
            outer, inner = ([size for size in shape[:-2] if size != ONE] for shape in (node.result.shape, source.shape))
            found = self.of(source) if source.shape[-2:] == self.sizes and outer == inner else None
            return found and self.g.view.reshape(found, shape=(*node.result.shape[:-2], self.count))
        if node.op == "index.gather" and node.attrs["axis"] == source.type.rank - 1:
            bucket = self.of(node.args[1])
            return bucket and self.g.index.gather(source, bucket, axis=node.attrs["axis"])
        if node.op == "view.transpose" and node.attrs["perm"] == (2, 0, 1):
            found = self._of_table(produced_by(source, "index.gather"))
            return found and self.g.view.transpose(found, perm=(1, 0))
        return None

    def _of_table(self, gather: Node | None) -> Value | None:
        """Rows of a table [N, H] by bucket [S, T], as [S + T - 1, H]."""
        if gather is None or gather.attrs["axis"] != 0 or gather.args[0] is None or gather.args[0].type.rank != 2:
            return None
        bucket = self.of(gather.args[1])
        return bucket and self.g.index.gather(gather.args[0], bucket, axis=0)

    def _of_array(self, array: np.ndarray) -> Value | None:
        """A known array that is constant along its diagonals; one that is the same everywhere is no bias."""
        if array.ndim < 2 or array.shape[-2:] == (1, 1):
            return self.g.weight("bias", array.reshape(array.shape[:-1]) if array.ndim > 1 else array)
        if array.shape[-2:] != tuple(size.value for size in self.sizes):
            return None
        if not (array[..., 1:, 1:] == array[..., :-1, :-1]).all():
            return None
        return self.g.weight("bias", np.concatenate([array[..., :0:-1, 0], array[..., 0, :]], axis=-1))
