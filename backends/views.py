"""Affine views inside a group: where the elements of a value lie in the parameter that a chain of view ops shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nomul.backends.frame import row_major
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value


@dataclass(frozen=True)
class View:
    """Element i of the value is element `offset + sum(i[axis] * strides[axis])` of the contiguous parameter."""

    param: Value
    offset: Dim
    strides: tuple[Dim, ...]


def resolve(value: Value) -> View | None:
    """The view of a value that reshape, transpose, slice and expand make of a parameter; None where not affine."""
    node = value.producer
    if node is None:
        return View(value, Dim.of(0), tuple(row_major(value.shape)))
    step = _STEPS.get(node.op)
    source = resolve(node.args[0]) if step and node.args[0] is not None else None
    return step(source, node) if step and source else None


def _transpose(view: View, node: Node) -> View:
    return View(view.param, view.offset, tuple(view.strides[axis] for axis in node.attrs["perm"]))


def _slice(view: View, node: Node) -> View:
    axis, stride = node.attrs["axis"], view.strides[node.attrs["axis"]]
    strides = list(view.strides)
    strides[axis] = stride * node.attrs["step"]
    return View(view.param, view.offset + stride * node.attrs["start"], tuple(strides))


def _expand(view: View, node: Node) -> View:
    source = node.args[0]
    assert source is not None
    shape = node.result.shape
    lead = len(shape) - len(source.shape)
    inner = (
        Dim.of(0) if old != new else s for s, old, new in zip(view.strides, source.shape, shape[lead:], strict=True)
    )
    return View(view.param, view.offset, (*(Dim.of(0),) * lead, *inner))


def _reshape(view: View, node: Node) -> View | None:
    """Walks both shapes from the back: axes of the new shape split, merge or keep runs of old axes."""
    source = node.args[0]
    assert source is not None
    old = [(size, stride) for size, stride in zip(source.shape, view.strides, strict=True) if size != Dim.of(1)]
    strides: list[Dim] = []
    run: tuple[Dim, Dim] | None = None  # what is left of the innermost old run: (size, stride)
    for size in reversed(node.result.shape):
        if size == Dim.of(1):
            strides.append(Dim.of(0))
            continue
        if run is None or run[0] == Dim.of(1):
            run = old.pop() if old else None
        run = _grown(run, old, size)
        if run is None:
            return None
        strides.append(run[1])
        run = (run[0].divide_exactly(size), run[1] * size)
    return View(view.param, view.offset, tuple(reversed(strides)))


def _grown(run: tuple[Dim, Dim] | None, old: list[tuple[Dim, Dim]], size: Dim) -> tuple[Dim, Dim] | None:
    """The run joined with outer old axes, which it must continue without gaps, until `size` divides it."""
    while run is not None:
        try:
            run[0].divide_exactly(size)
            return run
        except ValueError:
            if not old or old[-1][1] != run[0] * run[1]:
                return None
            run = (run[0] * old.pop()[0], run[1])
    return None


_STEPS: dict[str, Callable[[View, Node], View | None]] = {
    "view.transpose": _transpose,
    "view.slice": _slice,
    "view.expand": _expand,
    "view.reshape": _reshape,
}
