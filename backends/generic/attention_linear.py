"""Linear attention: the sums over keys of one head stand in scratch and grow from query to query where it is causal."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, constant, fma, minus
from nomul.backends.feature_map import mapped
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.head_line import head_line
from nomul.backends.generic.pull import Line, Pull, Strip
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node


@line("nn.linear_attention")
def linear_attention(pull: Pull, node: Node) -> Line:
    """A line is all of one head."""
    return head_line(pull, node, _Head)


class _Head:
    """Sums [D, E] and totals [D] of phi(k), and phi of the current query with what divides its results."""

    def __init__(self, pull: Pull, node: Node, batch: Expr, head: Expr) -> None:
        self.pull, self.node, self.batch, self.head = pull, node, batch, head
        shared = int(operand_shape(node)[2]) // int(operand_shape(node, 1)[2])
        self.key_head = bind(tirx.truncdiv(head, index_constant(shared)))
        size, width = operand_shape(node)[3], node.result.shape[3]
        self.dtype = pull.type(node.result.dtype)
        self.size, self.width = pull.size(size), pull.size(width)
        self.sums, self.totals = pull.strip(self.dtype, size * width), pull.strip(self.dtype, size)
        self.query, self.key = pull.strip(self.dtype, size), pull.strip(self.dtype, size)
        self.divisor = pull.strip(self.dtype, size - size + 1)

    def begin(self) -> None:
        """No sums yet, or those over all keys."""
        zero = tirx.const(0.0, self.dtype)
        for strip, count in ((self.sums, self.size * self.width), (self.totals, self.size)):
            with self.pull.loops(count) as (place,):
                strip.write(place, zero)
        if not self.node.attrs["causal"]:
            with self.pull.loops(self.pull.size(operand_shape(self.node, 1)[1])) as (t,):
                self._add(t)

    def _add(self, t: Expr) -> None:
        """Let the sums shrink, then add key t."""
        self._features(1, (self.batch, t, self.key_head), self.key)
        with self.pull.loops(self.size) as (d,):
            shrink, key = tirx.const(1.0, self.dtype), self.key.read(d)
            if len(self.node.args) > 3:
                shrink = bind(mathlib.exp(self.pull.operand(self.node, 3, (self.batch, t, self.key_head, d))))
            self.totals.write(d, fma(self.totals.read(d), shrink, key))
            with self.pull.loops(self.width) as (e,):
                place = bind(d * self.width + e)
                value = self.pull.operand(self.node, 2, (self.batch, t, self.key_head, e))
                self.sums.write(place, fma(key, value, bind(self.sums.read(place) * shrink)))

    def ask(self, query: Expr) -> None:
        """phi of a query, and what its results are divided by."""
        if self.node.attrs["causal"]:
            self._add(query)
        self._features(0, (self.batch, query, self.head), self.query)
        if not self.node.attrs["normalise"]:
            return
        total = self._product(lambda d: self.totals.read(d))
        total = bind(total + constant(total, self.node.attrs["eps"]))
        self.divisor.write(index_constant(0), total)

    def result(self, place: Expr) -> Expr:
        sum = self._product(lambda d: self.sums.read(bind(d * self.width + place)))
        if not self.node.attrs["normalise"]:
            return sum
        divisor = self.divisor.read(index_constant(0))
        zero = constant(sum, 0.0)
        nothing = tirx.EQ(divisor, zero)
        return bind(tirx.Select(nothing, zero, sum / bind(tirx.Select(nothing, constant(sum, 1.0), divisor))))

    def _product(self, other: Callable[[Expr], Expr]) -> Expr:
        start = tirx.const(0.0, self.dtype)
        return bind(self.pull.fold([self.size], start, lambda sum, d: fma(self.query.read(d[0]), other(d[0]), sum)))

    def _features(self, position: int, index: Index, into: Strip) -> None:
        """The feature map of a head's vector."""
        name = self.node.attrs["map"]
        with self.pull.loops(self.size) as (d,):
            into.write(d, mapped(self.pull.operand(self.node, position, (*index, d)), name))
        if name != "softmax":
            return
        lowest = tirx.const(-3.4e38, self.dtype)
        top = bind(self.pull.fold([self.size], lowest, lambda top, d: tirx.max(top, into.read(d[0]))))
        with self.pull.loops(self.size) as (d,):
            into.write(d, mathlib.exp(bind(minus(into.read(d), top))))
        zero = tirx.const(0.0, self.dtype)
        total = bind(self.pull.fold([self.size], zero, lambda sum, d: sum + into.read(d[0])))
        with self.pull.loops(self.size) as (d,):
            into.write(d, into.read(d) / total)
