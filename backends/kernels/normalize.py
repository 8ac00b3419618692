"""Norms, softmax and log_softmax over the last axis in f32: a few sweeps over a row that stays in the cache.

A tile is one row. The variance is taken from centred elements, as the definition does. Element-wise nodes that follow
are evaluated in the last sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.emit import Epilogue
from nomul.backends.frame import KernelFrame, split_index
from nomul.backends.group import Group
from nomul.backends.kernels.row_sweep import RowSweep, square_root
from nomul.backends.mathlib import exp_nonpositive, log
from nomul.backends.registry import Built, kernel
from nomul.backends.target import Target
from nomul.backends.tir.body import buffer_at, let, loop
from nomul.backends.tir.vectors import lanes_at, load, spread, store_vector
from nomul.ir.dim import Dim, product
from nomul.ir.graph import Node, Value
from nomul.ir.types import DType

Expr = Any
_THREAD_WORK = 16 * 1024  # bytes of rows worth a thread


def refusal(group: Group) -> str | None:
    """Why this group is not served, or None."""
    anchor = group.anchor
    assert anchor is not None
    if anchor.attrs.get("axis", len(anchor.result.shape) - 1) != len(anchor.result.shape) - 1:
        return "not over the last axis"
    return operand_refusal(group)


def operand_refusal(group: Group) -> str | None:
    """Why the operands or the result do not fit, or None."""
    anchor = group.anchor
    assert anchor is not None
    if len(group.func.returns) != 1 or group.func.returns[0].type != anchor.result.type:
        return "the result is not of the norm's type"
    if any(value is not None and value.dtype is not DType.F32 for value in anchor.args):
        return "operands are not f32"
    if any(value is not None and (value.producer is not None or value.type.encoding) for value in anchor.args):
        return "an operand is computed inside the group, or encoded"
    return None


@kernel("nn.layer_norm", accepts=refusal, rank=20)
def layer_norm_rows(group: Group, target: Target) -> Built:
    """Mean, variance of the centred elements, then scale and shift."""
    return _build(group, target, _Rows.layer_norm)


@kernel("nn.rms_norm", accepts=refusal, rank=20)
def rms_norm_rows(group: Group, target: Target) -> Built:
    """Mean of squares, then scale."""
    return _build(group, target, _Rows.rms_norm)


@kernel("nn.softmax", accepts=refusal, rank=20)
def softmax_rows(group: Group, target: Target) -> Built:
    """Maximum, exponentials into scratch with their sum, then the quotients."""
    return _build(group, target, _Rows.softmax)


@kernel("nn.log_softmax", accepts=refusal, rank=20)
def log_softmax_rows(group: Group, target: Target) -> Built:
    """Maximum, sum of exponentials, then the elements less the logarithm of that sum."""
    return _build(group, target, _Rows.log_softmax)


def _build(group: Group, target: Target, emit: Callable[[_Rows], None]) -> Built:
    assert group.anchor is not None and group.anchor.args[0] is not None
    x = group.anchor.args[0]
    with KernelFrame(group, target) as frame:
        rows = _Rows(frame, group.anchor, x)
        with loop("tile", frame.end - frame.begin, frame.begin) as row:
            rows.start(row)
            emit(rows)
    size = x.shape[-1].value
    keeps = group.anchor.op == "nn.softmax"
    return Built(
        frame.function,
        tiles=product(x.shape[:-1]),
        grain=max(1, _THREAD_WORK // (4 * size)) if size else 1,
        scratch=x.shape[-1] * 4 if keeps else Dim.of(0),
        inplace=inplace(group, x),
    )


def inplace(group: Group, x: Value) -> tuple[int, ...]:
    """Parameters of the result's type that are read element by element; x only when the nodes behind do not read it."""
    (result,) = group.func.returns
    return tuple(
        position
        for position, param in enumerate(group.func.params)
        if param.type == result.type and position not in group.weights and (param is not x or len(x.users) == 1)
    )


class _Rows:
    """Emits what happens to one row."""

    def __init__(self, frame: KernelFrame, anchor: Node, x: Value) -> None:
        self.frame, self.anchor, self.x = frame, anchor, x
        self.sweep = RowSweep(frame, x.shape[-1])
        self.epilogue = Epilogue(frame.group, anchor.result)
        self.kept = buffer_at("kept", "float32", frame.scratch)

    def start(self, row: Expr) -> None:
        sizes = [self.frame.size(size) for size in self.x.shape[:-1]]
        self.lead = tuple(split_index(row, sizes))
        self.first = let("first", row * self.sweep.size)

    def layer_norm(self) -> None:
        _, gamma, beta = (*self.anchor.args, None, None)[:3]
        mean = let("mean", self._mean(self.sweep.total(self._element)))

        def square(place: Expr, lanes: int) -> Expr:
            centred = let("centred", self._element(place, lanes) - spread(mean, lanes))
            return centred * centred

        share = self._inverse_root(self.sweep.total(square))
        self._write(lambda place, lanes: self._element(place, lanes) - spread(mean, lanes), share, gamma, beta)

    def rms_norm(self) -> None:
        gamma = self.anchor.args[1] if len(self.anchor.args) > 1 else None

        def square(place: Expr, lanes: int) -> Expr:
            element = let("element", self._element(place, lanes))
            return element * element

        self._write(self._element, self._inverse_root(self.sweep.total(square)), gamma, None)

    def softmax(self) -> None:
        top = self.sweep.largest(self._element, float("-inf"))

        def exponential(place: Expr, lanes: int) -> Expr:
            power = let("power", exp_nonpositive(let("below", self._element(place, lanes) - spread(top, lanes))))
            store_vector(self.kept, place, power)
            return power

        share = let("share", tirx.FloatImm("float32", 1.0) / self.sweep.total(exponential))
        self._write(lambda place, lanes: load(self.kept, place, lanes), share, None, None)

    def log_softmax(self) -> None:
        top = self.sweep.largest(self._element, float("-inf"))

        def exponential(place: Expr, lanes: int) -> Expr:
            return exp_nonpositive(let("below", self._element(place, lanes) - spread(top, lanes)))

        level = let("level", top + log(self.sweep.total(exponential)))
        one = tirx.FloatImm("float32", 1.0)
        self._write(lambda place, lanes: self._element(place, lanes) - spread(level, lanes), one, None, None)

    # -- parts -------------------------------------------------------------------------------------------------
    def _element(self, place: Expr, lanes: int) -> Expr:
        return self.frame.read_flat(self.x, lanes_at(self.first + place, lanes))

    def _mean(self, total: Expr) -> Expr:
        return total / tirx.Cast("float32", self.sweep.size)

    def _inverse_root(self, total: Expr) -> Expr:
        eps = tirx.FloatImm("float32", self.anchor.attrs["eps"])
        root = square_root(let("variance", self._mean(total) + eps))
        return let("share", tirx.FloatImm("float32", 1.0) / root)

    def _write(
        self, element: Callable[[Expr, int], Expr], share: Expr, gamma: Value | None, beta: Value | None
    ) -> None:
        """element * share * gamma + beta and the nodes behind it, for the whole row."""

        def put(place: Expr, lanes: int) -> None:
            column = lanes_at(place, lanes)
            value = element(place, lanes) * spread(share, lanes)
            if gamma is not None:
                value = value * self.frame.read(gamma, (column,))
            if beta is not None:
                value = value + self.frame.read(beta, (column,))
            at = (*self.lead, column)
            finished = self.epilogue.apply(let("normal", value), at, self.frame.read)
            self.frame.write_flat(0, lanes_at(self.first + place, lanes), finished)

        self.sweep.each(put)
