"""Element-wise ops broadcast by themselves: expansions in front of them go, or move behind them."""

from __future__ import annotations

from nomul.ir.graph import Constant, Node, Value, Weight
from nomul.ir.op import Kind, all_ops
from nomul.ir.shapes import ONE
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, Rewriter

ELEMENTWISE = tuple(spec.name for spec in all_ops().values() if spec.kind is Kind.ELEMENTWISE)
BINARY = tuple(name for name in ELEMENTWISE if len(all_ops()[name].operands) > 1)


def rebuilt(g: Rewriter, node: Node, position: int, operand: Value) -> Value | None:
    """The node with another operand where its result type stays, else None."""
    args = [*node.args[:position], operand, *node.args[position + 1 :]]
    made = g.op(node.op, *args, **node.attrs)
    if made.type == node.result.type:
        return made
    g.discard()
    return None


class ExpandedOperand(NodeRule):
    """x + expand(y) -> x + y, x + full(c) -> x + c, where the other operands give the shape."""

    ops = (*BINARY, "nn.matmul")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for position, operand in enumerate(node.args):
            source = produced_by(operand, "view.expand", "make.full")
            if source is None:
                continue
            made = self._without(g, node, position, source)
            if made is not None:
                return made
        return None

    def _without(self, g: Rewriter, node: Node, position: int, source: Node) -> Value | None:
        if source.op == "make.full":
            if node.op == "nn.matmul":
                return None
            return rebuilt(g, node, position, _literal(source))
        inner = source.args[0]
        assert inner is not None
        if node.op == "nn.matmul" and (inner.type.rank < 2 or inner.shape[-2:] != source.result.shape[-2:]):
            return None
        return rebuilt(g, node, position, inner)


def _literal(full: Node) -> Value:
    return Constant(full.attrs["value"], full.result.dtype)


class ExpandedMask(NodeRule):
    """The mask of attention broadcasts by itself, also where a reshape only adds leading axes of 1."""

    ops = ("nn.attention",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        mask = node.operand(3)
        expand = produced_by(mask, "view.expand")
        source = expand.args[0] if expand else _without_leading(mask)
        return rebuilt(g, node, 3, source) if source is not None else None


def _without_leading(value: Value | None) -> Value | None:
    """What a reshape only adds leading axes of 1 to, or None."""
    reshape = produced_by(value, "view.reshape")
    source = reshape.args[0] if reshape else None
    if source is None or value is None or value.shape == source.shape:
        return None
    added = value.type.rank - source.type.rank
    return source if added > 0 and value.shape == (*(ONE,) * added, *source.shape) else None


class ComputeBeforeExpand(NodeRule):
    """f(expand(x), expand(y)) -> expand(f(x, y)) where that computes fewer elements."""

    ops = ELEMENTWISE

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        sources, expands = [], 0
        for operand in node.args:
            expand = produced_by(operand, "view.expand")
            sources.append(expand.args[0] if expand else operand)
            expands += expand is not None
        if not expands:
            return None
        small = g.op(node.op, *sources, **node.attrs)
        if small.shape == node.result.shape:
            g.discard()
            return None
        return g.view.expand(small, shape=node.result.shape)


class AlongBeforeExpand(NodeRule):
    """softmax and running sums of expand(x) along an axis that x has -> expand of those of x."""

    ops = ("nn.softmax", "nn.log_softmax", "reduce.cumsum")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        expand = produced_by(node.args[0], "view.expand")
        source = expand.args[0] if expand else None
        if source is None:
            return None
        axis = node.attrs["axis"] - (node.result.type.rank - source.type.rank)
        if axis < 0 or source.shape[axis] != node.result.shape[node.attrs["axis"]]:
            return None
        small = g.op(node.op, source, **(node.attrs | {"axis": axis}))
        return g.view.expand(small, shape=node.result.shape)


class ComputeBeforeFull(NodeRule):
    """A function of make.full and literals -> make.full."""

    ops = ELEMENTWISE

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        makers = [produced_by(operand, "make.full") for operand in node.args]
        if not any(makers):
            return None
        literals = [_literal(maker) if maker else operand for maker, operand in zip(makers, node.args, strict=True)]
        result = g.op(node.op, *literals, **node.attrs)
        if isinstance(result, Constant):
            return g.make.full(shape=node.result.shape, value=float(result.value), dtype=result.dtype)
        g.discard()
        return None


class LeadingUnitAxes(NodeRule):
    """x + w[1, 1, D] -> x + w[D]: a weight needs no leading axes of size 1 (nor does a reshape that adds them)."""

    ops = BINARY

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        for position, operand in enumerate(node.args):
            if operand is None or not operand.shape or operand.shape[0] != ONE or operand.shape == node.result.shape:
                continue
            bare = self._bare(g, operand)
            if bare is not None and (made := rebuilt(g, node, position, bare)) is not None:
                return made
        return None

    @staticmethod
    def _bare(g: Rewriter, operand: Value) -> Value | None:
        rank = next((i for i, size in enumerate(operand.shape) if size != ONE), operand.type.rank)
        shape = operand.shape[rank:]
        if isinstance(operand, Weight):
            return g.view.reshape(operand, shape=shape, name=operand.name)
        source = _without_leading(operand)
        return source if source is not None and source.shape == shape else None
