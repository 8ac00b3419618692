"""Reshapes, transposes, slices, concatenations: chains become one, those that change nothing go."""

from __future__ import annotations

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import ONE, reshape_groups
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, Rewriter


def operand(node: Node) -> Value:
    """The first operand, which is never absent for these ops."""
    value = node.args[0]
    assert value is not None
    return value


class ViewOfNothing(NodeRule):
    """A view whose result is its operand."""

    ops = ("view.reshape", "view.expand", "view.slice", "view.concat", "view.pad", "view.transpose")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        if len(node.args) != 1 or operand(node).type != node.result.type:
            return None
        if node.op == "view.transpose" and node.attrs["perm"] != tuple(range(operand(node).type.rank)):
            return None
        return None if node.op == "view.slice" and node.attrs["step"] < 0 else operand(node)


class ReshapeOfReshape(NodeRule):
    """reshape(reshape(x)) -> one reshape."""

    ops = ("view.reshape",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(operand(node), "view.reshape")
        return g.view.reshape(operand(inner), shape=node.result.shape) if inner else None


class TransposeOfTranspose(NodeRule):
    """transpose(transpose(x)) -> one transpose."""

    ops = ("view.transpose",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(operand(node), "view.transpose")
        if inner is None:
            return None
        perm = tuple(inner.attrs["perm"][axis] for axis in node.attrs["perm"])
        return g.view.transpose(operand(inner), perm=perm)


class TransposeOfUnitAxes(NodeRule):
    """A transpose that only moves axes of size 1 -> reshape."""

    ops = ("view.transpose",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        moved = [axis for axis in node.attrs["perm"] if operand(node).shape[axis] != ONE]
        return g.view.reshape(operand(node), shape=node.result.shape) if moved == sorted(moved) else None


class TransposeOfReshape(NodeRule):
    """transpose(reshape(x)) -> reshape(transpose(x)) where the transpose keeps together what the reshape split."""

    ops = ("view.transpose",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        reshape = produced_by(operand(node), "view.reshape")
        if reshape is None:
            return None
        x, middle, perm = operand(reshape), reshape.result.shape, node.attrs["perm"]
        moved = [axis for axis in perm if middle[axis] != ONE]
        groups = sorted(reshape_groups(x.shape, middle), key=lambda group: moved.index(group.target[0]))
        if [axis for group in groups for axis in group.target] != moved:
            return None
        units = tuple(axis for axis, size in enumerate(x.shape) if size == ONE)
        order = units + tuple(axis for group in groups for axis in group.source)
        if len(order) != x.type.rank:
            return None
        return g.view.reshape(g.view.transpose(x, perm=order), shape=node.result.shape)


class TransposeOfExpand(NodeRule):
    """transpose(expand(x)) -> expand(transpose(x)), which moves fewer elements."""

    ops = ("view.transpose",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        expand = produced_by(operand(node), "view.expand")
        if expand is None:
            return None
        x, rank = operand(expand), expand.result.type.rank
        if x.type.rank < rank:
            x = g.view.reshape(x, shape=(ONE,) * (rank - x.type.rank) + x.shape)
        return g.view.expand(g.view.transpose(x, perm=node.attrs["perm"]), shape=node.result.shape)


class ExpandOfExpand(NodeRule):
    """expand(expand(x)) -> one expand."""

    ops = ("view.expand",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(operand(node), "view.expand")
        return g.view.expand(operand(inner), shape=node.result.shape) if inner else None


class SliceOfSlice(NodeRule):
    """slice(slice(x)) along one axis, forwards -> one slice."""

    ops = ("view.slice",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        inner = produced_by(operand(node), "view.slice")
        if inner is None or inner.attrs["axis"] != node.attrs["axis"]:
            return None
        if min(node.attrs["step"], inner.attrs["step"]) < 0:
            return None
        start, stop, step = inner.attrs["start"], node.attrs["stop"], inner.attrs["step"]
        attrs = {
            "axis": node.attrs["axis"],
            "start": start + node.attrs["start"] * step,
            "stop": start + (stop - 1) * step + 1,
            "step": step * node.attrs["step"],
        }
        merged = g.view.slice(operand(inner), **attrs)
        return merged if merged.type == node.result.type else None


class SliceOfConcat(NodeRule):
    """A slice of one part of a concatenation -> a slice of that part."""

    ops = ("view.slice",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        concat = produced_by(operand(node), "view.concat")
        axis, start, stop = node.attrs["axis"], node.attrs["start"], node.attrs["stop"]
        if concat is None or concat.attrs["axis"] != axis or node.attrs["step"] < 0:
            return None
        begin = Dim.of(0)
        for part in concat.args:
            assert part is not None
            end = begin + part.shape[axis]
            inside = [(start - begin).value, (end - stop).value]
            if all(distance is not None and distance >= 0 for distance in inside):
                attrs = node.attrs | {"start": start - begin, "stop": stop - begin}
                return g.view.slice(part, **attrs)
            begin = end
        return None


class SliceOfConcatBehindView(NodeRule):
    """A slice along the last axis of a concatenation along it that is transposed or reshaped -> the part so shown."""

    ops = ("view.slice",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        view, last = produced_by(operand(node), "view.reshape", "view.transpose"), node.result.type.rank - 1
        concat = produced_by(operand(view), "view.concat") if view else None
        if view is None or concat is None or node.attrs["axis"] != last or node.attrs["step"] != 1:
            return None
        axis, begin = concat.attrs["axis"], Dim.of(0)
        stays = (
            view.attrs["perm"][-1] == axis if "perm" in view.attrs else view.result.shape[-1] == concat.result.shape[-1]
        )
        if axis != concat.result.type.rank - 1 or not stays:
            return None
        for part in concat.args:
            assert part is not None
            end = begin + part.shape[axis]
            if (begin, end) == (node.attrs["start"], node.attrs["stop"]):
                attrs = view.attrs if "perm" in view.attrs else {"shape": node.result.shape}
                return g.op(view.op, part, **attrs)
            begin = end
        return None


class ConcatOfNeighbours(NodeRule):
    """concat(x[:, a:b], x[:, b:c]) -> x[:, a:c]; nested concatenations along one axis -> one."""

    ops = ("view.concat",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        axis = node.attrs["axis"]
        for index, (left, right) in enumerate(zip(node.args, node.args[1:], strict=False)):
            if (joined := _join(g, left, right, axis)) is not None:
                return g.view.concat(*node.args[:index], joined, *node.args[index + 2 :], axis=axis)
        for index, part in enumerate(node.args):
            inner = produced_by(part, "view.concat")
            if inner and inner.attrs["axis"] == axis and len(inner.result.users) == 1:
                return g.view.concat(*node.args[:index], *inner.args, *node.args[index + 1 :], axis=axis)
        return None


def _join(g: Rewriter, left: Value | None, right: Value | None, axis: int) -> Value | None:
    a, b = produced_by(left, "view.slice"), produced_by(right, "view.slice")
    if a is None or b is None or operand(a) is not operand(b):
        return None
    plain = all(node.attrs["axis"] == axis and node.attrs["step"] == 1 for node in (a, b))
    if not plain or a.attrs["stop"] != b.attrs["start"]:
        return None
    return g.view.slice(operand(a), axis=axis, start=a.attrs["start"], stop=b.attrs["stop"])


class EmptyPartOfConcat(NodeRule):
    """A part of size 0 adds nothing."""

    ops = ("view.concat",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        axis = node.attrs["axis"]
        kept = [part for part in node.args if part is not None and part.shape[axis] != 0]
        if not kept or len(kept) == len(node.args):
            return None
        return g.view.concat(*kept, axis=axis)


class ViewOfMaker(NodeRule):
    """Views of make.full -> make.full; a slice of make.iota -> make.iota."""

    ops = ("view.reshape", "view.expand", "view.slice", "view.transpose")

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        maker = produced_by(operand(node), "make.full", "make.iota")
        if maker is None:
            return None
        if maker.op == "make.full":
            return g.op("make.full", **(maker.attrs | {"shape": node.result.shape}))
        if node.op != "view.slice":
            return None
        start = maker.attrs["start"] + node.attrs["start"] * maker.attrs["step"]
        step = maker.attrs["step"] * node.attrs["step"]
        dtype = node.result.dtype
        return g.op("make.iota", size=node.result.shape[0], start=start, step=step, dtype=dtype)
