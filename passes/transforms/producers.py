"""Where a change of the channels of a value can be absorbed: the weights that make those channels.

A factor for each channel, another order of channels, or a rotation that mixes them is followed from the value backwards
through the ops that it commutes with, to layers and norms whose weights can take it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import numpy as np

from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import Kind
from nomul.passes.graph_tools import exchange
from nomul.passes.transforms.base import Refused

Change = Literal["scale", "order", "rotation"]
Axes = tuple[int, ...]  # of a value, which together count its channels
_HOMOGENEOUS = ("ew.relu", "ew.leaky_relu", "ew.neg")  # f(s x) = s f(x) for s > 0
_SUMS = ("ew.add", "ew.sub")


@dataclass
class Producers:
    """weights: all those whose first axis makes the channels.  unit: channels may only move, or mix, within runs of so
    many, 0: without limit.  seen: values that change with them, and their channel axes."""

    weights: dict[Weight, None] = field(default_factory=dict)
    unit: int = 0
    seen: dict[Value, Axes] = field(default_factory=dict)

    def copy(self) -> Producers:
        return Producers(dict(self.weights), self.unit, dict(self.seen))

    def absorb(self, module: Module, function: Callable[[np.ndarray], np.ndarray]) -> None:
        """Replace each weight by function(weight), which changes it along the first axis."""
        for weight in self.weights:
            array = weight.array()
            changed = function(array.reshape(len(array), -1).astype(np.float64)).reshape(array.shape)
            exchange(module, weight, Weight.dense(weight.name, changed.astype(array.dtype)))


def producers(func: Func, value: Value, axes: Axes, consumers: Iterable[Node], change: Change) -> Producers:
    """What absorbs a change of the channels of a value that only `consumers` may read. Raises Refused with a reason."""
    walk = _Walk(func, change)
    walk.visit(value, axes)
    allowed = {*consumers, *(known.producer for known in walk.found.seen)}
    for known in walk.found.seen:
        other = next((user for user, _ in known.users if user not in allowed), None)
        if other is not None or any(known is returned for returned in func.returns):
            reader = f"{other.op} at {other.results[0]}" if other else "an output"
            raise Refused(f"{reader} reads {known} too")
    return walk.found


class _Walk:
    """From a value backwards. found: grows on the way."""

    def __init__(self, func: Func, change: Change) -> None:
        self.func, self.change, self.found = func, change, Producers()

    def visit(self, value: Value, axes: Axes) -> None:
        if value in self.found.seen:
            if self.found.seen[value] != axes:
                raise Refused(f"{value} has the channels on two sets of axes")
            return
        self.found.seen[value] = axes
        node = value.producer
        if node is None:
            kind = "a weight" if isinstance(value, Weight) else "an input of the model"
            raise Refused(f"{value} is {kind}")
        step = _STEPS.get(node.op, _Walk._elementwise if node.spec.kind is Kind.ELEMENTWISE else None)
        if step is None:
            raise Refused(f"{node.op} at {value} stands between")
        step(self, node, axes)

    # -- ends --------------------------------------------------------------------------------------------------
    def _take(self, node: Node, *positions: int) -> None:
        """Operands of a node that are weights of it alone, the channels on their first axis."""
        for position in positions:
            weight = node.args[position] if position < len(node.args) else None
            if weight is None:
                continue
            if not isinstance(weight, Weight) or weight.type.encoding or len(weight.users) != 1 or not weight.fields:
                raise Refused(f"{weight}, which makes {node.results[0]}, is no weight of this layer alone")
            self.found.weights[weight] = None

    def _linear(self, node: Node, axes: Axes) -> None:
        if axes != (node.result.type.rank - 1,):
            raise Refused(f"{node.result} has channels on other axes than its last")
        self._take(node, 1, 2)

    def _conv2d(self, node: Node, axes: Axes) -> None:
        weight, groups = node.args[1], node.attrs["groups"]
        assert weight is not None
        if axes != (1 if node.attrs["layout"] == "nchw" else 3,):
            raise Refused(f"{node.result} has channels on other axes than its own")
        depthwise = weight.shape[0].value == groups and weight.shape[1].value == 1
        if groups != 1 and (not depthwise or self.change == "rotation"):
            raise Refused(f"the convolution that makes {node.result} has groups")
        self._take(node, 1, 2)
        if depthwise and groups != 1 and self.change == "order":
            self._follow(node, 0, axes)

    def _norm(self, node: Node, axes: Axes) -> None:
        if self.change == "rotation" or axes != (node.result.type.rank - 1,):
            raise Refused(f"{node.op} at {node.result} stands between")
        if self.change == "scale" and (len(node.args) < 2 or node.args[1] is None):
            raise Refused(f"{node.op} at {node.result} has no gamma")
        self._take(node, 1, 2)
        if self.change == "order":
            self._follow(node, 0, axes)

    # -- on the way --------------------------------------------------------------------------------------------
    def _follow(self, node: Node, position: int, axes: Axes) -> None:
        value = node.args[position]
        assert value is not None
        self.visit(value, axes)

    def _elementwise(self, node: Node, axes: Axes) -> None:
        """Order: any function. Scale: linear in one operand. Rotation: sums."""
        operands = [(arg, own) for arg in node.args if arg is not None and (own := _axes_of(arg, node.result, axes))]
        if self.change == "order" or (node.op in _SUMS and len(operands) == len(node.args)):
            for arg, own in operands:
                self.visit(arg, own)
        elif self.change == "scale" and node.op in _HOMOGENEOUS:
            self.visit(*operands[0])
        elif self.change == "scale" and node.op == "ew.mul":
            self._one_of(node, operands)
        else:
            raise Refused(f"{node.op} at {node.result} stands between")

    def _one_of(self, node: Node, operands: list[tuple[Value, Axes]]) -> None:
        """A product takes the factor in any one of its operands."""
        reason = f"{node.op} at {node.result} has no operand with all channels"
        kept = self.found.copy()
        for arg, axes in operands:
            if node.args.count(arg) > 1:
                continue
            try:
                return self.visit(arg, axes)
            except Refused as refused:
                reason, self.found = str(refused), kept.copy()
        raise Refused(reason)

    def _reshape(self, node: Node, axes: Axes) -> None:
        """Channels on all of the last axes, before and behind."""
        x, rank = node.args[0], node.result.type.rank
        assert x is not None
        count = prod(node.result.shape[axis].value or 0 for axis in axes)
        start, size = x.type.rank, 1
        while start and size < count:
            start -= 1
            size *= x.shape[start].value or 0
        if axes != tuple(range(rank - len(axes), rank)) or size != count or not count:
            raise Refused(f"view.reshape at {node.result} takes channels apart")
        self.visit(x, tuple(range(start, x.type.rank)))

    def _transpose(self, node: Node, axes: Axes) -> None:
        self._follow(node, 0, tuple(node.attrs["perm"][axis] for axis in axes))

    def _attention(self, node: Node, axes: Axes) -> None:
        """Each channel of the result is a mean over the same channel of the values."""
        values = node.args[2]
        assert values is not None
        if axes != (2, 3) or values.shape[2] != node.result.shape[2]:
            raise Refused(f"heads of the attention at {node.result} share values")
        if values in node.args[:2]:
            raise Refused(f"queries or keys of the attention at {node.result} are its values")
        if self.found.unit:
            raise Refused("there are two attentions in turn")
        self.found.unit = int(values.shape[3])
        self.visit(values, axes)


def _axes_of(arg: Value, result: Value, axes: Axes) -> Axes | None:
    """The channel axes of an operand that broadcasts to the result; None where it has no channels."""
    if isinstance(arg, Constant):
        return None
    lead = result.type.rank - arg.type.rank
    own = tuple(axis - lead for axis in axes)
    if any(axis < 0 or arg.shape[axis] != result.shape[axis + lead] for axis in own):
        return None
    return own


_STEPS: dict[str, Callable[[_Walk, Node, Axes], None]] = {
    "nn.linear": _Walk._linear,
    "nn.conv2d": _Walk._conv2d,
    "nn.layer_norm": _Walk._norm,
    "nn.rms_norm": _Walk._norm,
    "nn.attention": _Walk._attention,
    "view.reshape": _Walk._reshape,
    "view.transpose": _Walk._transpose,
}
