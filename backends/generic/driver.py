"""Builds the generic kernel of a group: what goes through scratch, what a tile is, and the loops around the rules.

A group is computed in stages where elements would otherwise be worked out again and again: values of ops with a `line`
or `whole` rule, and of costly ops that are read under another shape, are first written to scratch, by one tile that
does everything. Without stages, tiles are lines of the result and run in parallel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind
from nomul.backends.frame import KernelFrame, index_constant, split_index
from nomul.backends.generic import rules
from nomul.backends.generic.pull import Line, Pull, Stored
from nomul.backends.group import Group
from nomul.backends.registry import Built
from nomul.backends.target import Target
from nomul.ir.dim import Dim, ceil_div, product
from nomul.ir.graph import Node, Value
from nomul.ir.op import Kind

_CHUNK = 1024  # elements of a tile where the result has one axis
_WORK = 8192  # elements worth a thread


def build(group: Group, target: Target) -> Built:
    """The generic kernel of any group."""
    heavy = [node for node in group.func.nodes if node.spec.kind in (Kind.ANCHOR, Kind.OTHER)]
    staged = _staged(group, heavy)
    with KernelFrame(group, target) as frame:
        pull = Pull(frame)
        if staged:
            tiles = Dim.of(1)
            _run_stages(pull, staged)
        elif len(heavy) == 1 and rules()[heavy[0].op].kind == "line":
            tiles = _walk_lines(pull, heavy[0])
        else:
            tiles = _walk_result(pull)
    return Built(
        frame.function, tiles=tiles, grain=_grain(group, tiles), scratch=pull.scratch, inplace=_inplace(group, staged)
    )


def _inplace(group: Group, staged: Sequence[Node]) -> tuple[int, ...]:
    """A scatter may write into the memory of what it scatters into, where nothing else reads that."""
    if len(staged) != 1 or group.func.returns != staged[0].results or rules()[staged[0].op].kind != "whole":
        return ()
    source = staged[0].args[0]
    positions = [i for i, param in enumerate(group.func.params) if param is source and len(param.users) == 1]
    return tuple(position for position in positions if position not in group.weights)


def _staged(group: Group, heavy: Sequence[Node]) -> list[Node]:
    """The nodes whose results must be complete before they are read."""
    if len(heavy) > 1:
        return list(heavy)
    staged = []
    for node in heavy:
        rule = rules()[node.op]
        if rule.kind == "whole" or (rule.costly and not _reads_place_by_place(group, node)):
            staged.append(node)
    return staged


def _reads_place_by_place(group: Group, node: Node) -> bool:
    """Whether all that is returned has the shape of the node's results and follows from them element by element."""
    shape = node.results[0].shape
    after: set[Value] = set(node.results)
    for other in group.func.nodes:
        if any(arg in after for arg in other.args):
            if other.spec.kind is not Kind.ELEMENTWISE or other.result.shape != shape:
                return False
            after.update(other.results)
    if rules()[node.op].kind == "element":
        return True
    return all(value in after and value.shape == shape for value in group.func.returns)


# -- one tile does everything ----------------------------------------------------------------------------------
def _run_stages(pull: Pull, staged: Sequence[Node]) -> None:
    with T.serial(pull.frame.begin, pull.frame.end):
        for node in staged:
            stores = [pull.store(value) for value in node.results]
            with pull.scope():
                _fill(pull, node, stores)
            pull.stored.update(zip(node.results, stores, strict=True))
        returns = pull.frame.group.func.returns
        for position, value in enumerate(returns):
            if value in pull.stored and returns.index(value) == position:
                continue  # it is there
            with pull.loops(*(pull.size(size) for size in value.shape)) as index:
                pull.frame.write(position, index, pull.element(value, index))


def _fill(pull: Pull, node: Node, stores: Sequence[Stored]) -> None:
    rule = rules()[node.op]
    if rule.kind == "whole":
        rule.function(pull, node, *stores)
        return
    if rule.kind == "element":
        with pull.loops(*(pull.size(size) for size in node.result.shape)) as index:
            stores[0].write(index, pull.element(node.result, index))
        return
    walk: Line = rule.function(pull, node)
    with pull.loops(*(pull.size(size) for size in walk.lines)) as line:
        step = walk.prepare(line)
        with pull.loops(*(pull.size(size) for size in walk.places)) as place:
            index = walk.at(line, place)
            for store, element in zip(stores, step(index), strict=True):
                store.write(index, element)


# -- lines of the anchor ---------------------------------------------------------------------------------------
def _walk_lines(pull: Pull, node: Node) -> Dim:
    """A tile is one line."""
    walk: Line = rules()[node.op].function(pull, node)
    with T.serial(pull.frame.begin, pull.frame.end) as tile, pull.scope():
        line = tuple(split_index(tile, [pull.size(size) for size in walk.lines]))
        step = walk.prepare(line)
        with pull.loops(*(pull.size(size) for size in walk.places)) as place:
            index = walk.at(line, place)
            pull.know(node.results, index, step(index))
            for position, value in enumerate(pull.frame.group.func.returns):
                pull.frame.write(position, index, pull.element(value, index))
    return product(walk.lines)


# -- lines of the result ---------------------------------------------------------------------------------------
def _walk_result(pull: Pull) -> Dim:
    """A tile is a row of the result, or a piece of its only axis. Several results of unlike shapes: one tile."""
    returns = pull.frame.group.func.returns
    shapes = {value.shape for value in returns}
    if len(shapes) > 1:
        with T.serial(pull.frame.begin, pull.frame.end):
            for position, value in enumerate(returns):
                with pull.loops(*(pull.size(size) for size in value.shape)) as index:
                    pull.frame.write(position, index, pull.element(value, index))
        return Dim.of(1)
    (shape,) = shapes
    with T.serial(pull.frame.begin, pull.frame.end) as tile, pull.scope():
        outer, extent = _row(pull, shape, tile)
        with pull.loops(*extent) as inner:
            index = (*outer, *inner)
            for position, value in enumerate(returns):
                pull.frame.write(position, index, pull.element(value, index))
    return product(shape[:-1]) if len(shape) > 1 else ceil_div(product(shape), _CHUNK)


def _row(pull: Pull, shape: tuple[Dim, ...], tile: Expr) -> tuple[Index, list[Any]]:
    """(outer index, ranges of the inner loops) of a tile of a result."""
    if not shape:
        return (), []
    if len(shape) > 1:
        return tuple(split_index(tile, [pull.size(size) for size in shape[:-1]])), [pull.size(shape[-1])]
    begin = bind(tile * index_constant(_CHUNK))
    count = bind(tirx.min(pull.size(shape[0]) - begin, index_constant(_CHUNK)))
    return (), [(begin, begin + count)]


def _grain(group: Group, tiles: Dim) -> int:
    numel = group.func.returns[0].type.numel
    try:
        row = numel.divide_exactly(tiles).value
    except ValueError:
        row = None
    return max(1, _WORK // row) if row else 8
