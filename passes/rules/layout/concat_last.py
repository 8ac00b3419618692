"""Rotary positions are arithmetic on halves that are joined in between; joining last makes it one kernel."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.graph_tools import is_elementwise, is_view, produced_by
from nomul.passes.rule import NodeRule, Rewriter


class ConcatBehindElementwise(NodeRule):
    """concat(a, b) * s + y -> concat(a * s[:k] + y[:k], b * s[k:] + y[k:]), where a and b are views of other tensors
    or arithmetic on such views, so that everything joins into the kernel of the concatenation."""

    ops = ("ew.add", "ew.sub", "ew.mul")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for position, arg in enumerate(node.args):
            concat = produced_by(arg, "view.concat")
            if concat is None or len(concat.result.users) > 1 or concat.result.shape != node.result.shape:
                continue
            if all(_is_light(part) for part in concat.args):
                return self._split(g, node, position, concat)
        return None

    @staticmethod
    def _split(g: Rewriter, node: Node, position: int, concat: Node) -> Value:
        axis, start, parts = concat.attrs["axis"], Dim.of(0), []
        for part in concat.args:
            assert part is not None
            stop = start + part.shape[axis]
            args = [
                part if index == position else _cut(g, arg, axis - node.result.type.rank, start, stop)
                for index, arg in enumerate(node.args)
            ]
            parts.append(g.op(node.op, *args))
            start = stop
        return g.view.concat(*parts, axis=axis)


def _is_light(value: Value | None) -> bool:
    """A view of something, or element-wise arithmetic on such views that nothing else needs."""
    node = value.producer if value is not None else None
    if is_view(node):
        return True
    if node is None or not is_elementwise(node) or len(node.result.users) > 1:
        return False
    return all(isinstance(arg, Constant) or _is_light(arg) for arg in node.args)


def _cut(g: Rewriter, value: Value | None, axis: int, start: Dim, stop: Dim) -> Value | None:
    """Elements start to stop along an axis counted from the end; what broadcasts along it stays."""
    if value is None or isinstance(value, Constant) or value.type.rank < -axis or value.shape[axis] == ONE:
        return value
    return g.view.slice(value, axis=value.type.rank + axis, start=start, stop=stop)
