"""Attention by the delta rule: the state [D, E] of one head stands in scratch and changes from token to token."""

from __future__ import annotations

from tvm import tirx

from nomul.backends import mathlib
from nomul.backends.emit import Expr, Index
from nomul.backends.expressions import bind, fma, minus
from nomul.backends.frame import index_constant
from nomul.backends.generic import line
from nomul.backends.generic.head_line import head_line
from nomul.backends.generic.pull import Line, Pull, Strip
from nomul.backends.generic.view import operand_shape
from nomul.ir.graph import Node
from nomul.ir.ops.attention_delta import BETA, DECAY


@line("nn.delta_attention")
def delta_attention(pull: Pull, node: Node) -> Line:
    """A line is all of one head."""
    return head_line(pull, node, _Head)


class _Head:
    """The state, and key and query of the current token."""

    def __init__(self, pull: Pull, node: Node, batch: Expr, head: Expr) -> None:
        self.pull, self.node, self.batch = pull, node, batch
        shared = int(operand_shape(node)[2]) // int(operand_shape(node, 1)[2])
        self.head, self.key_head = head, bind(tirx.truncdiv(head, index_constant(shared)))
        size, width = operand_shape(node)[3], node.result.shape[3]
        self.dtype = pull.type(node.result.dtype)
        self.size, self.width = pull.size(size), pull.size(width)
        self.state = pull.strip(self.dtype, size * width)
        self.query, self.key = pull.strip(self.dtype, size), pull.strip(self.dtype, size)

    def begin(self) -> None:
        with self.pull.loops(self.size * self.width) as (place,):
            self.state.write(place, tirx.const(0.0, self.dtype))

    def ask(self, query: Expr) -> None:
        """Let the state shrink, correct it by the token's key, and read the token's query."""
        of_key = (self.batch, query, self.key_head)
        with self.pull.loops(self.size) as (d,):
            self.query.write(d, self.pull.operand(self.node, 0, (self.batch, query, self.head, d)))
            self.key.write(d, self.pull.operand(self.node, 1, (*of_key, d)))
            if self.node.operand(DECAY) is not None:
                shrink = bind(mathlib.exp(self.pull.operand(self.node, DECAY, (*of_key, d))))
                with self.pull.loops(self.width) as (e,):
                    place = bind(d * self.width + e)
                    self.state.write(place, bind(self.state.read(place) * shrink))
        self._correct(of_key)

    def _correct(self, of_key: Index) -> None:
        rate = self.pull.operand(self.node, BETA, of_key)
        with self.pull.loops(self.width) as (e,):
            value = self.pull.operand(self.node, 2, (*of_key, e))
            change = bind(rate * bind(minus(value, self._product(self.key, e))))
            with self.pull.loops(self.size) as (d,):
                place = bind(d * self.width + e)
                self.state.write(place, fma(self.key.read(d), change, self.state.read(place)))

    def result(self, place: Expr) -> Expr:
        return self._product(self.query, place)

    def _product(self, vector: Strip, column: Expr) -> Expr:
        """A vector of D elements times a column of the state."""
        start = tirx.const(0.0, self.dtype)

        def add(sum: Expr, place: Index) -> Expr:
            return fma(vector.read(place[0]), self.state.read(bind(place[0] * self.width + column)), sum)

        return bind(self.pull.fold([self.size], start, add))
