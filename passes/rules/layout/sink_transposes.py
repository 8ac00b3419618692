"""f(transpose(x)) -> transpose(f(x)) for ops that can work on the axes in another order."""

from __future__ import annotations

from nomul.ir.graph import Constant, Node, Value
from nomul.ir.op import Kind
from nomul.ir.shapes import ONE, inverse
from nomul.passes.graph_tools import is_known, produced_by
from nomul.passes.rule import NodeRule, Rewriter
from nomul.passes.rules.simplify.broadcast import ELEMENTWISE

REDUCTIONS = ("reduce.sum", "reduce.mean", "reduce.prod", "reduce.max", "reduce.min", "reduce.any", "reduce.all")
ROWS = ("nn.linear", "nn.layer_norm", "nn.rms_norm")
ALONG_AXIS = ("nn.softmax", "nn.log_softmax", "reduce.cumsum")
MOVABLE = frozenset((*REDUCTIONS, *ROWS, *ALONG_AXIS, "view.concat", "view.slice", "view.pad", "view.transpose"))

Perm = tuple[int, ...]


def transposed(value: Value | None) -> Node | None:
    """The transpose that makes a value, where it moves something and every user of it could take the source instead."""
    node = produced_by(value, "view.transpose")
    if node is None or turning_is_free(source(node), node.attrs["perm"]):
        return None
    users = {user for user, _ in node.result.users}
    movable = all(user.spec.kind is Kind.ELEMENTWISE or user.op in MOVABLE for user in users)
    return node if len(users) == 1 or movable else None


def source(node: Node) -> Value:
    operand = node.args[0]
    assert operand is not None
    return operand


def turning_is_free(value: Value, perm: Perm) -> bool:
    """Whether a transpose of the value moves nothing: only axes of size 1, or back what transposes above it moved."""
    order = [axis for axis in perm if value.shape[axis] != ONE]
    while (node := produced_by(value, "view.transpose", "view.reshape")) is not None:
        above = source(node)
        if node.op == "view.transpose":
            order = [node.attrs["perm"][axis] for axis in order]
        else:
            old, new = _long_axes(above), _long_axes(value)
            if [above.shape[axis] for axis in old] != [value.shape[axis] for axis in new]:
                break
            order = [old[new.index(axis)] for axis in order]
        value = above
    return order == sorted(order)


def turned_already(value: Value, perm: Perm) -> bool:
    """Whether somebody reads the value transposed in this way."""
    return any(user.op == "view.transpose" and user.attrs["perm"] == perm for user, _ in value.users)


def is_only_turn(turn: Node) -> bool:
    """Whether nobody will read the source in this order once the one user of the transpose does without it (so that a
    rule that shares another transpose instead does not find its own work to undo)."""
    alike = [u for u, _ in source(turn).users if u.op == "view.transpose" and u.attrs["perm"] == turn.attrs["perm"]]
    return len(alike) == 1 and len(turn.result.users) == 1


def _long_axes(value: Value) -> list[int]:
    return [axis for axis, size in enumerate(value.shape) if size != ONE]


class TransposeBehindElementwise(NodeRule):
    """f(transpose(x), transpose(y), c) -> transpose(f(x, y, c')), where every operand of full size is transposed alike;
    smaller ones are turned themselves."""

    ops = ELEMENTWISE

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        shape = node.result.shape
        turn = next((t for arg in node.args if (t := transposed(arg)) and t.result.shape == shape), None)
        if turn is None:
            return None
        back = inverse(turn.attrs["perm"])
        may_share = is_only_turn(turn)
        args = []
        for arg in node.args:
            turned = self._turned(g, arg, turn, back, may_share)
            if turned is None:
                g.discard()
                return None
            args.append(turned)
        return g.view.transpose(g.op(node.op, *args, **node.attrs), perm=turn.attrs["perm"])

    @staticmethod
    def _turned(g: Rewriter, arg: Value | None, turn: Node, back: Perm, may_share: bool) -> Value | None:
        """An operand as the function sees it before the transpose, or None where turning it costs too much."""
        shape, perm = turn.result.shape, turn.attrs["perm"]
        if arg is None or isinstance(arg, Constant):
            return arg
        own = produced_by(arg, "view.transpose")
        if own is not None and own.attrs["perm"] == perm:
            return source(own)
        full = (ONE,) * (len(shape) - arg.type.rank) + arg.shape
        costs = arg.shape == shape and not is_known(arg) and not turning_is_free(arg, back)
        if costs and not (may_share and turned_already(arg, back)):
            return None
        padded = arg if len(full) == arg.type.rank else g.view.reshape(arg, shape=full)
        return g.view.transpose(padded, perm=back)


class TransposeBehindReduction(NodeRule):
    """reduce(transpose(x)) -> transpose(reduce(x)) over the same axes of x."""

    ops = REDUCTIONS

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turn = transposed(node.args[0])
        if turn is None:
            return None
        perm: Perm = turn.attrs["perm"]
        axes = tuple(sorted(perm[axis] for axis in node.attrs["axes"]))
        reduced = g.op(node.op, source(turn), **(node.attrs | {"axes": axes}))
        if not node.attrs["keepdims"]:
            kept = [axis for axis in range(len(perm)) if axis not in axes]
            perm = tuple(kept.index(axis) for axis in perm if axis in kept)
        return g.view.transpose(reduced, perm=perm)


class TransposeBehindRows(NodeRule):
    """linear and norms of transpose(x) -> transpose behind them, where it leaves the last axis in its place."""

    ops = ROWS

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turn = transposed(node.args[0])
        if turn is None or turn.attrs["perm"][-1] != len(turn.attrs["perm"]) - 1:
            return None
        return g.view.transpose(g.op(node.op, source(turn), *node.args[1:], **node.attrs), perm=turn.attrs["perm"])


class TransposeBehindAxisOp(NodeRule):
    """softmax along an axis of transpose(x) -> along that axis of x, unless only here it is the last."""

    ops = ALONG_AXIS

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turn = transposed(node.args[0])
        if turn is None:
            return None
        last = len(turn.attrs["perm"]) - 1
        axis = turn.attrs["perm"][node.attrs["axis"]]
        if node.attrs["axis"] == last and axis != last:
            return None
        return g.view.transpose(g.op(node.op, source(turn), axis=axis), perm=turn.attrs["perm"])


class TransposeBehindSlice(NodeRule):
    """slice(transpose(x)) -> transpose(slice(x))."""

    ops = ("view.slice",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turn = transposed(node.args[0])
        if turn is None:
            return None
        axis = turn.attrs["perm"][node.attrs["axis"]]
        return g.view.transpose(g.view.slice(source(turn), **(node.attrs | {"axis": axis})), perm=turn.attrs["perm"])


class TransposeBehindPad(NodeRule):
    """pad(transpose(x)) -> transpose(pad(x))."""

    ops = ("view.pad",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turn = transposed(node.args[0])
        if turn is None:
            return None
        back = inverse(turn.attrs["perm"])
        widths = {side: tuple(node.attrs[side][axis] for axis in back) for side in ("before", "after")}
        return g.view.transpose(g.view.pad(source(turn), **(node.attrs | widths)), perm=turn.attrs["perm"])


class TransposeBehindConcat(NodeRule):
    """concat(transpose(x), transpose(y)) with one permutation -> transpose(concat(x, y))."""

    ops = ("view.concat",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        turns = [transposed(arg) for arg in node.args]
        first = turns[0]
        if first is None or any(turn is None or turn.attrs["perm"] != first.attrs["perm"] for turn in turns):
            return None
        axis = first.attrs["perm"][node.attrs["axis"]]
        joined = g.view.concat(*(source(turn) for turn in turns if turn is not None), axis=axis)
        return g.view.transpose(joined, perm=first.attrs["perm"])
