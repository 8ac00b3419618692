"""nn.softmax in f32 over an axis that is not the last: neighbours on the last axis stand in the vector lanes.

A tile is a block of neighbours, with all their elements along the softmax axis. Three sweeps along it: the maximum, the
exponentials (into scratch) with their sum, the quotients with the element-wise nodes that follow.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue, Index
from nomul.backends.expressions import bind
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels import normalize
from nomul.backends.mathlib import exp_nonpositive
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, index, let, local, loop, store
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector
from nomul.ir.dim import ceil_div, product
from nomul.ir.graph import Node, Value

BLOCK = 64  # neighbours of a tile, the same on every level
_WORK = 4096  # elements worth a thread

Expr = Any


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if anchor.attrs["axis"] == len(anchor.result.shape) - 1:
        return "over the last axis"
    return normalize.operand_refusal(group)


@kernel("nn.softmax", accepts=refusal, rank=20)
def softmax_columns(group: Group, target: Target) -> Built:
    """Lanes along the last axis."""
    assert group.anchor is not None and group.anchor.args[0] is not None
    x = group.anchor.args[0]
    axis = group.anchor.attrs["axis"]
    lines = (*x.shape[:axis], *x.shape[axis + 1 : -1])
    with KernelFrame(group, target) as frame:
        columns = _Columns(frame, group.anchor, x)
        columns.emit()
    size = x.shape[axis].value
    return Built(
        frame.function,
        tiles=product(lines) * ceil_div(x.shape[-1], BLOCK),
        grain=max(1, _WORK // (size * BLOCK)) if size else 1,
        scratch=x.shape[axis] * target.vector_bytes,
        inplace=normalize.inplace(group, x),
    )


class _Columns:
    """Emits the body of the kernel."""

    def __init__(self, frame: KernelFrame, anchor: Node, x: Value) -> None:
        self.frame, self.x, self.axis = frame, x, anchor.attrs["axis"]
        self.lanes = frame.target.vector_bytes // 4
        self.size, self.last = frame.size(x.shape[self.axis]), frame.size(x.shape[-1])
        self.epilogue = Epilogue(frame.group, anchor.result)
        self.kept = buffer_at("kept", "float32", frame.scratch)
        self.folds = local("folds", "float32", self.lanes)

    def emit(self) -> None:
        blocks = let("blocks", self.frame.size(ceil_div(self.x.shape[-1], BLOCK)))
        sizes = [self.frame.size(size) for axis, size in enumerate(self.x.shape[:-1]) if axis != self.axis]
        with loop("tile", self.frame.end - self.frame.begin, self.frame.begin) as tile:
            line = let("line", tirx.truncdiv(tile, blocks))
            self.line = split_index(line, sizes)
            first = let("first", (tile - line * blocks) * BLOCK)
            count = let("count", tirx.min(index(BLOCK), self.last - first))
            whole = let("whole", tirx.truncdiv(count, index(self.lanes)))
            with loop("piece", whole) as piece:
                self._strip(let("place", first + piece * self.lanes), self.lanes)
            done = let("done", whole * self.lanes)
            with loop("rest", count - done, done) as rest:
                self._strip(let("place", first + rest), 1)

    def _index(self, step: Expr, place: Expr, lanes: int) -> Index:
        return (*self.line[: self.axis], step, *self.line[self.axis :], lanes_at(place, lanes))

    def _strip(self, place: Expr, lanes: int) -> None:
        """The elements along the axis for `lanes` neighbours."""
        self._fold(lanes, float("-inf"))
        with loop("step", self.size) as step:
            self._set(tirx.max(self._folded(lanes), self.frame.read(self.x, self._index(step, place, lanes))))
        top = bind(self._folded(lanes))
        self._fold(lanes, 0.0)
        with loop("step", self.size) as step:
            below = bind(self.frame.read(self.x, self._index(step, place, lanes)) - top)
            power = bind(exp_nonpositive(below))
            store_vector(self.kept, step * lanes, power)
            self._set(self._folded(lanes) + power)
        share = bind(spread(tirx.FloatImm("float32", 1.0), lanes) / self._folded(lanes))
        with loop("step", self.size) as step:
            at = self._index(step, place, lanes)
            value = bind(load(self.kept, step * lanes, lanes) * share)
            self.frame.write(0, at, self.epilogue.apply(value, at, self.frame.read))

    def _fold(self, lanes: int, start: float) -> None:
        self._set(spread(tirx.FloatImm("float32", start), lanes))

    def _set(self, value: Expr) -> None:
        store(self.folds, lanes_at(0, int(value.ty.dtype.lanes)), value)

    def _folded(self, lanes: int) -> Expr:
        return load(self.folds, 0, lanes)
