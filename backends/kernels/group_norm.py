"""nn.group_norm in f32: a tile is one group of channels of one image, whose elements are neighbours in memory.

Two sweeps for mean and variance, one that scales and shifts each channel. Element-wise nodes before and behind are done
on the fly where their other operands have the shape of the image, or one element per channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue, Index, evaluate
from nomul.backends.expressions import bind, fma
from nomul.backends.frame import KernelFrame, index_constant
from nomul.backends.group import Group
from nomul.backends.kernels.row_sweep import RowSweep, square_root
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import index, let, loop
from nomul.backends.tir.vectors import lanes_at, spread
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Node, Value
from nomul.ir.op import Kind
from nomul.ir.types import DType

Expr = Any
_ONE = Dim.of(1)


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None and anchor.args[0] is not None
    shape = anchor.args[0].shape
    if len(group.func.returns) != 1 or group.func.returns[0].type != anchor.result.type:
        return "the result is not of the norm's type"
    if any(node is not anchor and node.spec.kind is not Kind.ELEMENTWISE for node in group.func.nodes):
        return "an operand is a view"
    if any(value is not None and (value.dtype is not DType.F32 or value.type.encoding) for value in anchor.args):
        return "operands are not plain f32"
    if any(value is not None and value.producer is not None for value in anchor.args[1:]):
        return "scale or shift is computed inside the group"
    before = _ancestors(anchor.args[0])
    if any(param in before and param.shape != shape and param.type.numel != _ONE for param in group.func.params):
        return "an operand of a node before the norm broadcasts"
    behind = {arg for node in group.func.nodes if node is not anchor for arg in node.args}
    if any(param in behind and not _spans(param.shape, shape) for param in group.func.params):
        return "an operand broadcasts along other axes than the positions"
    return None


def _ancestors(value: Value) -> set[Value]:
    found = {value}
    for arg in value.producer.args if value.producer else ():
        if arg is not None:
            found |= _ancestors(arg)
    return found


def _spans(shape: tuple[Dim, ...], image: tuple[Dim, ...]) -> bool:
    """Whether an operand has the image's shape, or is the same all over a channel."""
    positions = len(image) - 2
    return shape == image or all(size == _ONE for size in shape[max(0, len(shape) - positions) :])


@kernel("nn.group_norm", accepts=refusal, rank=20)
def group_norm_rows(group: Group, target: Target) -> Built:
    """Mean, variance of the centred elements, then each channel."""
    assert group.anchor is not None and group.anchor.args[0] is not None
    x = group.anchor.args[0]
    with KernelFrame(group, target) as frame:
        _Groups(frame, group.anchor, x).emit()
    inplace = (i for i, param in enumerate(group.func.params) if param.type == x.type and i not in group.weights)
    return Built(frame.function, tiles=x.shape[0] * group.anchor.attrs["groups"], inplace=tuple(inplace))


class _Groups:
    """Emits the body of the kernel."""

    def __init__(self, frame: KernelFrame, anchor: Node, x: Value) -> None:
        self.frame, self.anchor, self.x = frame, anchor, x
        self.channels = int(x.shape[1]) // anchor.attrs["groups"]
        self.positions = product(x.shape[2:])
        self.all = RowSweep(frame, self.positions * self.channels)
        self.channel = RowSweep(frame, self.positions)
        self.epilogue = Epilogue(frame.group, anchor.result)

    def emit(self) -> None:
        groups = self.anchor.attrs["groups"]
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as tile:
            image = let("image", tirx.truncdiv(tile, index(groups)))
            first_channel = let("first_channel", (tile - image * groups) * self.channels)
            self.first = let("first", tile * self.all.size)
            mean, share = self._statistics()
            with loop("channel", self.channels) as channel:
                self._write(image, let("c", first_channel + channel), channel, mean, share)

    def _statistics(self) -> tuple[Expr, Expr]:
        """(mean, 1 / standard deviation) of a group."""
        count = tirx.Cast("float32", self.all.size)
        mean = let("mean", self.all.total(self._element) / count)

        def square(place: Expr, lanes: int) -> Expr:
            centred = bind(self._element(place, lanes) - spread(mean, lanes))
            return centred * centred

        eps = tirx.FloatImm("float32", self.anchor.attrs["eps"])
        variance = let("variance", self.all.total(square) / count + eps)
        return mean, let("share", tirx.FloatImm("float32", 1.0) / square_root(variance))

    def _element(self, place: Expr, lanes: int) -> Expr:
        """An element of the norm's operand at a place in the group."""
        zero = index_constant(0)
        return bind(evaluate(self.x, self._index(zero, zero), self._load(lanes_at(self.first + place, lanes))))

    def _index(self, image: Expr, channel: Expr) -> Index:
        """Positions are read flat, so their parts of an index do not matter."""
        return (image, channel, *(index_constant(0) for _ in self.x.shape[2:]))

    def _load(self, flat: Expr) -> Callable[[Value, Index], Expr]:
        def load(param: Value, place: Index) -> Expr:
            whole = param.shape == self.x.shape
            return self.frame.read_flat(param, flat) if whole else self.frame.read(param, place)

        return load

    def _write(self, image: Expr, c: Expr, channel: Expr, mean: Expr, share: Expr) -> None:
        """x * scale + shift and the nodes behind it, for one channel."""
        _, gamma, beta = (*self.anchor.args, None, None)[:3]
        scale = let("scale", share if gamma is None else share * self.frame.read(gamma, (c,)))
        shift = -mean * scale
        shift = let("shift", shift if beta is None else shift + self.frame.read(beta, (c,)))
        start = let("start", channel * self.channel.size)
        at = self._index(image, c)

        def put(place: Expr, lanes: int) -> None:
            flat = lanes_at(self.first + start + place, lanes)
            element = bind(evaluate(self.x, at, self._load(flat)))
            value = bind(fma(element, spread(scale, lanes), spread(shift, lanes)))
            self.frame.write_flat(0, flat, self.epilogue.apply(value, at, self._load(flat)))

        self.channel.each(put)
