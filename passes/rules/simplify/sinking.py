"""Reshapes move behind ops that work on rows or single elements, where they meet others and vanish."""

from __future__ import annotations

from nomul.ir.graph import Constant, Node, Value
from nomul.ir.shapes import ONE, Shape, reshape_groups
from nomul.passes.graph_tools import is_known, produced_by
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.simplify.broadcast import ELEMENTWISE


def keeps_last_axis(source: Shape, target: Shape) -> bool:
    """Whether a reshape leaves the last axis alone."""
    if not source or not target or source[-1] != target[-1]:
        return False
    if source[-1] == ONE:
        return True
    groups = reshape_groups(source, target)
    return groups[-1].source == (len(source) - 1,) and groups[-1].target == (len(target) - 1,)


class ComputeBeforeReshape(NodeRule):
    """f(reshape(x), c) -> reshape(f(x, c)) for literals c, known vectors along an untouched last axis, operands
    reshaped alike, and, where the reshape merges axes, operands of full size, whose axes it costs nothing to split."""

    ops = ELEMENTWISE

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        reshapes = [produced_by(arg, "view.reshape") for arg in node.args]
        sources = [r.args[0] for r in reshapes if r is not None and r.result.shape == node.result.shape]
        source = max((s.shape for s in sources if s is not None), key=len, default=None)
        if source is None:
            return None
        args = []
        for arg, reshape in zip(node.args, reshapes, strict=True):
            moved = self._moved(g, arg, reshape, source, node.result.shape)
            if moved is None:
                g.discard()
                return None
            args.append(moved)
        return g.view.reshape(g.op(node.op, *args, **node.attrs), shape=node.result.shape)

    @staticmethod
    def _moved(g: Rewriter, arg: Value | None, reshape: Node | None, source: Shape, target: Shape) -> Value | None:
        """The operand that does before the reshape what `arg` does behind it."""
        if arg is None or isinstance(arg, Constant):
            return arg
        if arg.shape == target and (_merges(source, target) or (reshape and _source_shape(reshape) == source)):
            return g.view.reshape(arg, shape=source)
        along_last = arg.type.rank == 1 and arg.shape == target[-1:]
        return arg if is_known(arg) and along_last and keeps_last_axis(source, target) else None


def _merges(source: Shape, target: Shape) -> bool:
    """Whether a reshape leaves fewer axes longer than 1."""
    return sum(size != ONE for size in source) > sum(size != ONE for size in target)


def _source_shape(reshape: Node) -> Shape:
    operand = reshape.args[0]
    assert operand is not None
    return operand.shape


class RowsBeforeReshape(NodeRule):
    """linear, norms and softmax over the last axis of reshape(x) -> reshape behind them, where it leaves that axis."""

    ops = ("nn.linear", "nn.layer_norm", "nn.rms_norm", "nn.softmax", "nn.log_softmax")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        reshape = produced_by(node.args[0], "view.reshape")
        source = reshape.args[0] if reshape else None
        if reshape is None or source is None or not keeps_last_axis(source.shape, reshape.result.shape):
            return None
        attrs = dict(node.attrs)
        if "axis" in attrs:
            if attrs["axis"] != reshape.result.type.rank - 1:
                return None
            attrs["axis"] = source.type.rank - 1
        return g.view.reshape(g.op(node.op, source, *node.args[1:], **attrs), shape=node.result.shape)


class RunningSumBeforeReshape(NodeRule):
    """cumsum of reshape(x) along an axis that the reshape leaves alone -> reshape behind it."""

    ops = ("reduce.cumsum",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        reshape = produced_by(node.args[0], "view.reshape")
        source = reshape.args[0] if reshape else None
        if source is None or node.result.shape[node.attrs["axis"]] == ONE:
            return None
        groups = reshape_groups(source.shape, node.result.shape)
        kept = next(group for group in groups if node.attrs["axis"] in group.target)
        if len(kept.source) != 1 or len(kept.target) != 1:
            return None
        sums = g.op(node.op, source, **(node.attrs | {"axis": kept.source[0]}))
        return g.view.reshape(sums, shape=node.result.shape)


class MatmulBeforeReshape(NodeRule):
    """reshape(a) @ reshape(b) with merged or split leading axes alike -> reshape(a @ b)."""

    ops = ("nn.matmul",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        sources = []
        for arg in node.args:
            reshape = produced_by(arg, "view.reshape")
            source = reshape.args[0] if reshape else None
            if arg is None or source is None or source.type.rank < 3 or source.shape[-2:] != arg.shape[-2:]:
                return None
            if arg.shape[:-2] != node.result.shape[:-2]:
                return None
            sources.append(source)
        if sources[0].shape[:-2] != sources[1].shape[:-2]:
            return None
        return g.view.reshape(g.nn.matmul(*sources), shape=node.result.shape)


class AddBetweenReshapes(NodeRule):
    """reshape(reshape(x) + m) back to the shape of x -> x + m' for a smaller m, expanded where an axis of x was split.

    Swin transformers add the masks of shifted windows to their scores in this way."""

    ops = ("view.reshape",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        add = produced_by(node.args[0], "ew.add")
        if add is None or len(add.result.users) > 1:
            return None
        for reshaped, other in (add.args, add.args[::-1]):
            reshape = produced_by(reshaped, "view.reshape")
            x = reshape.args[0] if reshape else None
            if x is None or other is None or x.shape != node.result.shape or reshaped is None:
                continue
            if reshaped.shape == add.result.shape != other.shape and not is_known(x):
                moved = self._moved(g, other, x.shape, add.result.shape)
                return g.ew.add(x, moved) if moved is not None else None
        return None

    @staticmethod
    def _moved(g: Rewriter, other: Value, source: Shape, target: Shape) -> Value | None:
        """`other`, which broadcasts to `target`, as something that broadcasts to `source`."""
        full = (ONE,) * (len(target) - other.type.rank) + other.shape
        wide, result = list(full), [ONE] * len(source)
        for group in reshape_groups(source, target):
            if len(group.source) != 1:
                return None
            if all(full[axis] == ONE for axis in group.target):
                continue
            result[group.source[0]] = source[group.source[0]]
            for axis in group.target:
                wide[axis] = target[axis]
        padded = g.view.reshape(other, shape=full)
        return g.view.reshape(g.view.expand(padded, shape=tuple(wide)), shape=tuple(result))
