"""Blocks of a function: stretches of nodes between places where all that layers have computed is one value.

In a chain of residual branches these places are the sums and what follows each of them: a block is a branch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from nomul.ir.graph import Constant, Func, Node, Value, Weight
from nomul.ir.op import Kind

_FOLLOWS = (Kind.ELEMENTWISE, Kind.VIEW, Kind.ANCHOR)


@dataclass(frozen=True)
class Block:
    """The nodes [start, stop) of a function by number.

    nodes: those of them that depend on the block's layers, in order.  inputs: what these read of all that other nodes
    compute, and of the function's parameters.  outputs: what of their results others read, or the function returns."""

    start: int
    stop: int
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def blocks_of(func: Func, layers: Collection[Node]) -> list[Block]:
    """The blocks that have layers, in order. layers: the nodes that learn.

    A mask that every block reads does not keep two blocks together, as no layer reads or makes it. Norms and
    element-wise work between two blocks belong to the one before."""
    found: list[tuple[int, int]] = []
    for start, stop in _stretches(func, layers):
        nodes = func.nodes[start:stop]
        if any(node in layers for node in nodes):
            found.append((start, stop))
        elif found and found[-1][1] == start and all(node.spec.kind in _FOLLOWS for node in nodes):
            found[-1] = (found[-1][0], stop)
    return [_block(func, layers, *stretch) for stretch in found]


def _stretches(func: Func, layers: Collection[Node]) -> Iterator[tuple[int, int]]:
    """All nodes by number, cut where at most one value is alive of those that layers read or have a part in."""
    last = {value: at for at, node in enumerate(func.nodes) for value in node.args if value is not None}
    read = {node.args[0] for node in layers}
    deep = {param for param in func.params if param in read}
    live, start = set(deep), 0
    for at, node in enumerate(func.nodes):
        if any(value in deep for value in node.args if value is not None) or any(
            value in read for value in node.results
        ):
            deep |= set(node.results)
            live |= set(node.results)
        live = {value for value in live if last.get(value, -1) > at}
        if len(live) <= 1 or at == len(func.nodes) - 1:
            yield start, at + 1
            start = at + 1


def _block(func: Func, layers: Collection[Node], start: int, stop: int) -> Block:
    inside: set[Value] = set()
    nodes: list[Node] = []
    for node in func.nodes[start:stop]:
        if node in layers or any(value in inside for value in node.args if value is not None):
            nodes.append(node)
            inside |= set(node.results)
    read = [value for node in nodes for value in node.args if value is not None and value not in inside]
    inputs = tuple(dict.fromkeys(value for value in read if not isinstance(value, Weight | Constant)))
    made = [value for node in nodes for value in node.results]
    return Block(start, stop, tuple(nodes), inputs, tuple(value for value in made if _leaves(func, value, nodes)))


def _leaves(func: Func, value: Value, nodes: Sequence[Node]) -> bool:
    return any(user not in nodes for user, _ in value.users) or any(value is returned for returned in func.returns)
