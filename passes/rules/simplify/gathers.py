"""Gathers by indices that are known, or that count up, are slices."""

from __future__ import annotations

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import produced_by
from nomul.passes.rule import NodeRule, Rewriter

Run = tuple[Dim, Dim, int]  # first index, how many, step


class GatherOfRun(NodeRule):
    """gather(x, 3), gather(x, [2, 3, 4]), gather(x, iota), gather(x, arange[:, :S]) -> slice and reshape."""

    ops = ("index.gather",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, indices = node.args
        assert x is not None and indices is not None
        axis, size = node.attrs["axis"], x.shape[node.attrs["axis"]]
        run = index_run(indices, size)
        if run is None:
            return None
        start, count, step = run
        stop = start + (count - 1) * step + 1
        if start.bounds(g.module.dims)[0] < 0 or (size - stop).bounds(g.module.dims)[0] < 0:
            return None
        part = g.view.slice(x, axis=axis, start=start, stop=stop, step=step)
        return g.view.reshape(part, shape=node.result.shape)


def index_run(indices: Value, size: Dim) -> Run | None:
    """The indices as start, start + step, ... where they are such a run; one below zero counts from the end."""
    while reshape := produced_by(indices, "view.reshape"):
        indices = reshape.args[0]  # type: ignore[assignment]
    if (iota := produced_by(indices, "make.iota")) and iota.attrs["step"] > 0:
        return iota.attrs["start"], iota.attrs["size"], iota.attrs["step"]
    if cut := produced_by(indices, "view.slice"):
        return _cut_run(cut, size)
    array = known_array(indices)
    return _array_run(array, size) if array is not None and array.size else None


def _cut_run(cut: Node, size: Dim) -> Run | None:
    source = cut.args[0]
    assert source is not None
    if source.shape[cut.attrs["axis"]] != source.type.numel or cut.attrs["step"] < 0:
        return None
    run = index_run(source, size)
    if run is None:
        return None
    start, _, step = run
    count = cut.result.shape[cut.attrs["axis"]]
    return start + cut.attrs["start"] * step, count, step * cut.attrs["step"]


def _array_run(array: np.ndarray, size: Dim) -> Run | None:
    flat = array.reshape(-1).astype(np.int64)
    if flat.size != max(array.shape, default=1):
        return None
    step = int(flat[1] - flat[0]) if flat.size > 1 else 1
    if step <= 0 or (np.diff(flat) != step).any() or (flat.min() < 0 <= flat.max()):
        return None
    start = Dim.of(int(flat[0]))
    return (start + size if flat[0] < 0 else start), Dim.of(flat.size), step


class GatherOfOneIndex(NodeRule):
    """gather(x, full(3)) -> one slice, expanded."""

    ops = ("index.gather",)

    def apply(self, g: Rewriter, node: Node) -> Value | None:
        x, indices = node.args
        assert x is not None and indices is not None
        maker = produced_by(indices, "make.full")
        axis = node.attrs["axis"]
        if maker is None or indices.type.rank == 0:
            return None
        index = int(maker.attrs["value"])
        if index < 0 or (x.shape[axis] - index - 1).bounds(g.module.dims)[0] < 0:
            return None
        part = g.view.slice(x, axis=axis, start=index, stop=index + 1)
        ones = (Dim.of(1),) * indices.type.rank
        return g.view.expand(
            g.view.reshape(part, shape=(*x.shape[:axis], *ones, *x.shape[axis + 1 :])), shape=node.result.shape
        )
