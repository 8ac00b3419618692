"""Which keys a query of nn.attention may see by its place alone: always a run [first, end), as expressions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from nomul.backends.expressions import bind
from nomul.ir.dim import Dim
from nomul.ir.graph import Node, Value
from nomul.ir.ops.attention import LENGTHS, MASK, RELATIVE, TILES
from nomul.ir.shapes import ONE
from nomul.ir.types import DType

Expr = Any


QUANTISED = "nn.quantised_attention"
PARTS = "nn.attention_parts"
SCALES = 6  # where those of stored keys and values stand among the operands of nn.attention_parts


def main_positions(node: Node) -> tuple[int, int, int]:
    """Of queries, keys and values among the operands; scales stand behind quantised ones."""
    return (0, 2, 4) if node.op == QUANTISED else (0, 1, 2)


def optional_operand(node: Node, position: int) -> Value | None:
    """An operand that may be absent. position: among those of nn.attention."""
    if node.op == PARTS and position >= TILES:
        return None
    return node.operand(position + main_positions(node)[2] - 2)


def elements_of(value: Value) -> int:
    """Of a vector of keys or values; one that is stored in u8 has two in a byte."""
    size = int(value.shape[3])
    return 2 * size if value.dtype is DType.U8 else size


class AttentionSpan:
    """size: a Dim as an expression.  Both ends rise with the query, so those of a tile of queries are its first query's
    first key and its last query's end."""

    def __init__(self, node: Node, size: Callable[[Dim | int], Expr]) -> None:
        keys = node.args[main_positions(node)[1]]
        assert keys is not None
        self._size, self._keys, self._attrs = size, keys.shape[1], node.attrs
        self.lengths = optional_operand(node, LENGTHS)
        self.has_first = bool(node.attrs["window"])

    @property
    def is_whole(self) -> bool:
        """Whether every query sees every key."""
        return not (self._attrs["causal"] or self._attrs["window"]) and self.lengths is None

    def first(self, query: Expr) -> Expr:
        """The first key that a query sees."""
        zero = tirx.const(0, "int64")
        if not self.has_first:
            return zero
        return bind(tirx.max(zero, self._place(query) - tirx.const(self._attrs["window"] - 1, "int64")))

    def end(self, query: Expr, length: Expr | None) -> Expr:
        """One behind the last key that a query sees. length: how many keys its sequence has, where that is given."""
        attrs, end = self._attrs, self._size(self._keys)
        place = self._place(query)
        if attrs["causal"]:
            block = tirx.const(attrs["block"], "int64")
            bound = place + 1 if attrs["block"] == 1 else (tirx.truncdiv(place, block) + 1) * block
            if attrs["prefix"] != 0:
                bound = tirx.max(bound, self._size(attrs["prefix"]))
            end = tirx.min(end, bound)
        if attrs["window"]:
            end = tirx.min(end, place + tirx.const(attrs["window"], "int64"))
        return bind(end if length is None else tirx.min(end, tirx.Cast("int64", length)))

    def _place(self, query: Expr) -> Expr:
        offset = self._attrs["offset"]
        return query if offset == 0 else query + self._size(offset)


def along(value: Value, axis: int, place: Expr) -> Expr:
    """The place along an axis that may have size 1."""
    return tirx.const(0, "int64") if value.shape[axis] == ONE else place


__all__ = [
    "LENGTHS",
    "MASK",
    "PARTS",
    "QUANTISED",
    "RELATIVE",
    "SCALES",
    "TILES",
    "AttentionSpan",
    "along",
    "elements_of",
    "main_positions",
    "optional_operand",
]
