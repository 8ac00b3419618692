"""Sums, means and extrema over axes: one reduction where exporters write several nodes."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE
from nomul.passes.graph_tools import number, produced_by
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.simplify.views import operand

REDUCTIONS = ("reduce.sum", "reduce.mean", "reduce.prod", "reduce.max", "reduce.min", "reduce.any", "reduce.all")


class ReduceOfUnitAxes(NodeRule):
    """A sum, mean, product, maximum or minimum over axes of size 1 -> reshape."""

    ops = REDUCTIONS

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if any(operand(node).shape[axis] != ONE for axis in node.attrs["axes"]):
            return None
        return g.view.reshape(operand(node), shape=node.result.shape)


class ReduceOfReduce(NodeRule):
    """mean(mean(x, a), b) -> mean(x, a and b), and so for sums, products and extrema."""

    ops = REDUCTIONS

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(node.args[0], node.op)
        if inner is None or len(inner.result.users) > 1:
            return None
        left = [axis for axis in range(operand(inner).type.rank) if axis not in inner.attrs["axes"]]
        outer = node.attrs["axes"] if inner.attrs["keepdims"] else tuple(left[axis] for axis in node.attrs["axes"])
        axes = tuple(sorted({*inner.attrs["axes"], *outer}))
        both = g.op(node.op, operand(inner), **(node.attrs | {"axes": axes}))
        return g.view.reshape(both, shape=node.result.shape)


class ReduceOfExpand(NodeRule):
    """reduce(expand(x)) -> expand(reduce(x)) where the expanded axes are not the reduced ones."""

    ops = REDUCTIONS

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        expand = produced_by(node.args[0], "view.expand")
        if expand is None:
            return None
        wide = expand.result.shape
        narrow = (ONE,) * (len(wide) - operand(expand).type.rank) + operand(expand).shape
        if any(narrow[axis] != wide[axis] for axis in node.attrs["axes"]):
            return None
        reduced = g.op(node.op, g.view.reshape(operand(expand), shape=narrow), **node.attrs)
        return g.view.expand(reduced, shape=node.result.shape)


class MeanFromSum(NodeRule):
    """sum(x) * (1 / n) -> mean(x), where n is the number of elements summed."""

    ops = ("ew.mul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        total, share = produced_by(node.args[0], "reduce.sum"), number(node.args[1])
        if total is None or share is None or total.args[0] is None or not total.result.dtype.is_float:
            return None
        count = Dim.of(1)
        for axis in total.attrs["axes"]:
            count = count * total.args[0].shape[axis]
        if count.value is None or abs(share * int(count) - 1) > 1e-5:
            return None
        return g.reduce.mean(total.args[0], **total.attrs)


class ReduceKeepsAxes(NodeRule):
    """reshape(reduce(x)) that puts the reduced axes back with size 1 -> reduce {keepdims}."""

    ops = ("view.reshape",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        reduction = node.args[0].producer if node.args[0] is not None else None
        if reduction is None or "axes" not in reduction.attrs or reduction.attrs["keepdims"]:
            return None
        if len(reduction.result.users) > 1:
            return None
        kept = g.op(reduction.op, reduction.args[0], **(reduction.attrs | {"keepdims": True}))
        if kept.shape == node.result.shape:
            return kept
        g.discard()
        return None
