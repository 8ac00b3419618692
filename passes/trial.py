"""Pieces of a graph that are tried: what they compute of given arrays, at a few sizes that tell them from others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nomul.ir.dim import Dim, Range
from nomul.ir.graph import Node, Value
from nomul.ir.interpreter import evaluate_node, type_shape
from nomul.ir.op import Kind
from nomul.passes.folding import known_array
from nomul.passes.graph_tools import number

MOST_NODES = 96  # of a formula; longer ones are none that a rule looks for
MOST = 1 << 20  # numbers in what is given; with more, trying takes seconds
ROOM = 3  # sizes are tried up to so many above the largest number that a formula compares places with


@dataclass(frozen=True)
class Piece:
    """The nodes, in order, that make `root` of the values `given` and of what is known."""

    root: Value
    given: tuple[Value, ...]
    nodes: tuple[Node, ...]

    def compute(self, arrays: Mapping[Value, np.ndarray], dims: Mapping[str, int]) -> np.ndarray:
        """The root for arrays in place of the given values, at these sizes."""
        values = dict(arrays)
        for node in self.nodes:
            operands = [None if arg is None else _array(arg, values) for arg in node.args]
            values.update(zip(node.results, evaluate_node(node, operands, dims), strict=True))
        return values[self.root]

    def sizes(self, ranges: Mapping[str, Range], most: int) -> Iterator[dict[str, int]]:
        """Sizes of the dims that tell places apart which the piece compares with numbers: the smallest, an odd one in
        between, and one that is larger than all those numbers; none above `most`, which may leave none."""
        low = {name: max(1, int(range[0])) for name, range in ranges.items()}
        largest = max((abs(place) for node in self.nodes for place in _places(node)), default=0) + ROOM
        tried: list[dict[str, int]] = []
        for wanted in (1, 7, 12, largest):
            found = {name: int(min(max(wanted, low[name]), ranges[name][1])) for name in ranges}
            if found not in tried and max(found.values(), default=0) <= most:
                tried.append(found)
                yield found


def piece_of(root: Value, is_given: Callable[[Value], bool], ops: Callable[[Node], bool]) -> Piece | None:
    """What makes the root of given values; None where that takes other ops, parameters, or too many nodes."""
    nodes: dict[Node, None] = {}
    given: dict[Value, None] = {}
    waiting = [(root, False)]
    while waiting:
        value, is_ready = waiting.pop()
        node = value.producer
        if node in nodes or known_array(value) is not None:
            continue
        if is_ready and node is not None:
            nodes[node] = None
        elif is_given(value):
            given[value] = None
        elif node is None or not ops(node) or len(nodes) + len(waiting) > MOST_NODES:
            return None
        else:
            waiting.append((value, True))
            waiting += [(arg, False) for arg in node.args if arg is not None]
    return Piece(root, tuple(given), tuple(nodes))


def is_simple(node: Node) -> bool:
    """Element-wise, a view, a maker of numbers, a reduction or one of those that place numbers by their index."""
    families = ("view", "make", "reduce", "index")
    return node.spec.kind is Kind.ELEMENTWISE or node.op.split(".")[0] in families


def computes_same(piece: Piece, other: Value, ranges: Mapping[str, Range]) -> bool:
    """Whether another value computes the same of arrays in place of what is given to the piece."""
    twin = piece_of(other, lambda value: any(value is given for given in piece.given), lambda node: True)
    draw = np.random.default_rng(0)
    is_tried = False
    for dims in piece.sizes(ranges, MOST) if twin is not None else ():
        shapes = [type_shape(given.type, dims) for given in piece.given]
        if twin is None or sum(int(np.prod(shape)) for shape in shapes) > MOST:
            continue
        arrays = {
            given: draw.standard_normal(shape).astype(given.dtype.numpy)
            for given, shape in zip(piece.given, shapes, strict=True)
        }
        is_tried = True
        if not np.allclose(piece.compute(arrays, dims), twin.compute(arrays, dims), rtol=1e-3, atol=1e-5):
            return False
    return is_tried


def _array(value: Value, values: Mapping[Value, np.ndarray]) -> np.ndarray:
    found = values.get(value)
    found = known_array(value) if found is None else found
    assert found is not None
    return found


def _places(node: Node) -> Iterator[int]:
    """Numbers that a node may compare places with, or begin and end at."""
    for arg in node.args:
        given = number(arg)
        if given is not None and arg is not None and not arg.dtype.is_float and abs(given) < 1 << 31:
            yield int(given)
    for value in node.attrs.values():
        fixed = value.value if isinstance(value, Dim) else None
        yield from () if fixed is None else (fixed,)
