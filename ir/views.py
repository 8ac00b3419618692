"""Chains of views as strides: where the elements of a value lie in the tensor that the chain shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.shapes import NOTHING, ONE, Shape, reshaped_strides, row_major


@dataclass(frozen=True)
class View:
    """Element i of the value is element `offset + sum(i[axis] * strides[axis])` of the contiguous source."""

    source: Value
    offset: Dim
    strides: Shape


def view_chain(value: Value) -> list[Node]:
    """The view nodes above a value, the nearest first."""
    chain = []
    while value.producer is not None and value.producer.op in _STEPS:
        chain.append(value.producer)
        value = _operand(value.producer)
    return chain


def chain_view(chain: Sequence[Node]) -> View | None:
    """How a chain of views (nearest first, not empty) shows its source; None where strides cannot say it."""
    source = _operand(chain[-1])
    view = View(source, NOTHING, row_major(source.shape))
    for node in reversed(chain):
        shown = _STEPS[node.op](view, node)
        if shown is None:
            return None
        view = shown
    return view


def resolve(value: Value) -> View | None:
    """The view that a value is of a parameter or weight; None where other nodes than views or no strides make it."""
    chain = view_chain(value)
    view = chain_view(chain) if chain else View(value, NOTHING, row_major(value.shape))
    return view if view is not None and view.source.producer is None else None


def _operand(node: Node) -> Value:
    operand = node.args[0]
    assert operand is not None
    return operand


def _transpose(view: View, node: Node) -> View:
    return View(view.source, view.offset, tuple(view.strides[axis] for axis in node.attrs["perm"]))


def _slice(view: View, node: Node) -> View:
    axis, strides = node.attrs["axis"], list(view.strides)
    strides[axis] = strides[axis] * node.attrs["step"]
    return View(view.source, view.offset + view.strides[axis] * node.attrs["start"], tuple(strides))


def _expand(view: View, node: Node) -> View:
    old, new = _operand(node).shape, node.result.shape
    lead = len(new) - len(old)
    inner = (
        NOTHING if size == ONE and wider != ONE else stride
        for stride, size, wider in zip(view.strides, old, new[lead:], strict=True)
    )
    return View(view.source, view.offset, (*(NOTHING,) * lead, *inner))


def _reshape(view: View, node: Node) -> View | None:
    strides = reshaped_strides(_operand(node).shape, view.strides, node.result.shape)
    return View(view.source, view.offset, strides) if strides is not None else None


_STEPS: dict[str, Callable[[View, Node], View | None]] = {
    "view.transpose": _transpose,
    "view.slice": _slice,
    "view.expand": _expand,
    "view.reshape": _reshape,
}
