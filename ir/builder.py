"""Adds nodes to a function with inferred types: `b.ew.add(x, 1.0)`, `b.nn.linear(x, w, bias)`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nomul.ir.graph import Constant, Func, Node, Scalar, Value
from nomul.ir.op import TypeFault, get_op
from nomul.ir.types import DType

Arg = Value | Scalar | None


class Builder:
    """Inserts at the end of `func`, or in front of `before`. loc: source layer given to the nodes made next."""

    def __init__(self, func: Func, before: Node | None = None, loc: str | None = None) -> None:
        self.func = func
        self.before = before
        self.loc = loc

    @contextmanager
    def at(self, loc: str | None) -> Iterator[Builder]:
        """Nodes made inside the block carry this source layer."""
        outer, self.loc = self.loc, loc
        try:
            yield self
        finally:
            self.loc = outer

    def node(self, op: str, *args: Arg, name: str = "", **attrs: Any) -> Node:
        """Insert one node. Python numbers become literals of the dtype of the first tensor operand.

        Raises TypeFault where operands or attributes do not fit, KeyError for an unknown op."""
        spec = get_op(op)
        operands = _trim(tuple(self._operand(arg, args, spec.name) for arg in args))
        full = spec.complete(attrs)
        types = spec.result_types([arg.type if arg is not None else None for arg in operands], full)
        names = [name or op.rsplit(".", 1)[-1]] * len(types)
        return self.func.insert(Node(spec, operands, full, types, names, self.loc), self.before)

    def op(self, op: str, *args: Arg, name: str = "", **attrs: Any) -> Value:
        """Like `node`, for an op with one result."""
        return self.node(op, *args, name=name, **attrs).result

    def __getattr__(self, family: str) -> _Family:
        if family.startswith("_"):
            raise AttributeError(family)
        return _Family(self, family)

    @staticmethod
    def _operand(arg: Arg, args: tuple[Arg, ...], op: str) -> Value | None:
        if arg is None or isinstance(arg, Value):
            return arg
        if isinstance(arg, bool):
            return Constant(arg, DType.BOOL)
        skip = 1 if op == "ew.where" else 0  # its first operand is the condition
        like = next((other for other in args[skip:] if isinstance(other, Value)), None)
        dtype = like.dtype if like is not None else DType.F32 if isinstance(arg, float) else DType.I64
        if dtype.is_integer and arg != int(arg):
            raise TypeFault(f"{op}: the number {arg} is not of type {dtype}")
        return Constant(arg, dtype)


def _trim(args: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """Without trailing absent operands, so that equal nodes look equal."""
    while args and args[-1] is None:
        args = args[:-1]
    return args


class _Family:
    """`b.ew` and the like: attribute access gives the ops of one family."""

    def __init__(self, builder: Builder, family: str) -> None:
        self._builder = builder
        self._family = family

    def __getattr__(self, name: str) -> Any:
        def build(*args: Arg, **attrs: Any) -> Value:
            return self._builder.op(f"{self._family}.{name.rstrip('_')}", *args, **attrs)

        return build
