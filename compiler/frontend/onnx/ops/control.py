"""Control flow that is decided at import: If, loops of a known length, and sequences of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.frontend.common import BAD_NODE
from nomul.frontend.onnx.entry import Entry
from nomul.frontend.onnx.node import Operand, SourceNode
from nomul.frontend.onnx.ops.view import split_sizes
from nomul.frontend.onnx.registry import onnx_op
from nomul.ir.dim import Dim
from nomul.ir.graph import Value

_LONGEST_LOOP = 64


@onnx_op("If")
def if_(n: SourceNode) -> tuple[Operand | Value, ...]:
    """The branch of a constant condition; else both branches (they have no effects), and a choice between results."""
    condition = n.constant(0)
    if condition is not None:
        return tuple(n.run_graph("then_branch" if condition.reshape(()) else "else_branch"))
    flag = n.reshape(n.tensor(), ())
    branches = zip(n.run_graph("then_branch"), n.run_graph("else_branch"), strict=True)
    return tuple(_chosen(n, flag, left, right) for left, right in branches)


def _chosen(n: SourceNode, flag: Value, left: Operand, right: Operand) -> Operand | Value:
    if left is right:
        return left
    if not isinstance(left, Entry) or not isinstance(right, Entry) or left.type != right.type:
        n.unsupported("a condition that depends on data chooses between results of different shapes")
    return n.b.ew.where(flag, n.scope.value(left), n.scope.value(right))


@onnx_op("Loop")
def loop(n: SourceNode) -> tuple[Operand | Value, ...]:
    """Unrolled: the number of turns must follow from constants."""
    turns = n.constant(0)
    flag, values = n.constant(1), n.operands[2:]
    if (n.has(0) and turns is None) or (n.has(1) and flag is None):
        n.unsupported("only loops of a constant length are supported")
    limit = _LONGEST_LOOP + 1 if turns is None else int(turns.reshape(()))
    going, turn, scans = flag is None or bool(flag.reshape(())), 0, []
    while going and turn < limit:
        if turn == _LONGEST_LOOP:
            n.unsupported(f"loops of more than {_LONGEST_LOOP} turns are not supported")
        index, on = n.known(np.asarray(turn, np.int64), f"turn{turn}"), n.known(np.asarray(True), "on")
        state, *results = n.run_graph("body", [index, on, *values])
        if not isinstance(state, Entry) or not state.is_constant:
            n.unsupported("only loops of a constant length are supported")
        going, turn = bool(state.array().reshape(())), turn + 1
        values, rows = results[: len(values)], results[len(values) :]
        scans.append(rows)
    if not scans and len(n.outputs) > len(values):
        n.unsupported("a loop without turns has no results to join")
    return (*values, *(_stacked(n, column) for column in zip(*scans, strict=True)))


def _stacked(n: SourceNode, parts: Sequence[Operand]) -> Value:
    """Results of all turns along a new first axis."""
    rows = []
    for part in parts:
        if not isinstance(part, Entry):
            n.unsupported("a loop that joins sequences is not supported")
        rows.append(n.reshape(n.plain(part), (1, *part.type.shape)))
    return rows[0] if len(rows) == 1 else n.b.view.concat(*rows, axis=0)


# -- sequences -------------------------------------------------------------------------------------------------
@onnx_op("SequenceConstruct")
def construct(n: SourceNode) -> list[Entry]:
    return [n.entry(index) for index in range(len(n.operands))]


@onnx_op("SequenceEmpty")
def empty(n: SourceNode) -> list[Entry]:
    return []


@onnx_op("SequenceInsert")
def insert(n: SourceNode) -> list[Entry]:
    items = list(n.sequence())
    place = int(n.need_constant(2, "the position").reshape(())) if n.has(2) else len(items)
    if not -len(items) <= place <= len(items):
        n.fail(BAD_NODE, f"position {place} is outside a sequence of {len(items)}")
    items.insert(place, n.entry(1))
    return items


@onnx_op("SequenceErase")
def erase(n: SourceNode) -> list[Entry]:
    items = list(n.sequence())
    del items[_place(n, 1, len(items), len(items) - 1)]
    return items


@onnx_op("SequenceAt")
def at(n: SourceNode) -> Entry:
    items = n.sequence()
    return items[_place(n, 1, len(items), 0)]


@onnx_op("SequenceLength")
def length(n: SourceNode) -> np.ndarray:
    return np.asarray(len(n.sequence()), np.int64)


def _place(n: SourceNode, index: int, size: int, default: int) -> int:
    if not n.has(index):
        return default
    place = int(n.need_constant(index, "the position").reshape(()))
    if not -size <= place < size:
        n.fail(BAD_NODE, f"position {place} is outside a sequence of {size}")
    return place % size


@onnx_op("SplitToSequence")
def split_to_sequence(n: SourceNode) -> list[Entry]:
    x, axis = n.tensor(), n.axis(n.attr("axis", 0))
    whole, given = x.shape[axis], n.sizes(1)
    if given is None and not n.has(1):
        sizes = [Dim.of(1)] * int(whole)
    elif given is not None and given.ndim == 0:
        count, part = int(whole), int(given.item())
        sizes = [Dim.of(min(part, count - start)) for start in range(0, count, part)]
    else:
        sizes = split_sizes(n, whole)
    items, start = [], Dim.of(0)
    keepdims = n.has(1) or n.attr("keepdims", 1)
    for size in sizes:
        part_value = n.slice(x, axis, start, start + size)
        kept = [s for place, s in enumerate(part_value.shape) if keepdims or place != axis]
        items.append(Entry.of_value(n.outputs[0], n.reshape(part_value, kept)))
        start = start + size
    return items


@onnx_op("ConcatFromSequence")
def concat_from_sequence(n: SourceNode) -> Value:
    items, axis = n.sequence(), n.need_attr("axis")
    if not items:
        n.unsupported("an empty sequence cannot be joined")
    values = [n.plain(item) for item in items]
    if n.attr("new_axis", 0):
        axis = n.axis(axis, items[0].type.rank + 1)
        values = [n.reshape(v, (*v.shape[:axis], 1, *v.shape[axis:])) for v in values]
    axis = n.axis(axis, values[0].type.rank)
    return values[0] if len(values) == 1 else n.b.view.concat(*values, axis=axis)
