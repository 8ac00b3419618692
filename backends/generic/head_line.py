"""Attention without softmax as one line for each head, whose sums over keys stand in scratch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tvm import tirx

from nomul.backends.emit import Expr, Index
from nomul.backends.frame import index_constant
from nomul.backends.generic.pull import Line, Pull
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node


class Head(Protocol):
    """One head of one batch element."""

    def begin(self) -> None:
        """What comes before all queries."""

    def ask(self, query: Expr) -> None:
        """What comes before the results of a query; they are asked for in order."""

    def result(self, place: Expr) -> Expr:
        """An element of the result of the query that was asked last."""


def head_line(pull: Pull, node: Node, head: Callable[[Pull, Node, Expr, Expr], Head]) -> Line:
    """For operands and a result [B, S, H, ...]. head: from pull, node, batch and number of the head."""
    batch, queries, heads, _ = operand_shape(node)

    def prepare(line: Index) -> Callable[[Index], tuple[Expr, ...]]:
        of_line = head(pull, node, *line)
        of_line.begin()

        def step(index: Index) -> tuple[Expr, ...]:
            _, query, _, place = index
            with pull.when(tirx.EQ(place, index_constant(0))):
                of_line.ask(query)
            return (of_line.result(place),)

        return step

    def at(line: Index, place: Index) -> Index:
        return (line[0], place[0], line[1], place[1])

    return Line((batch, heads), (queries, node.result.shape[3]), at, prepare)
