"""The graph: values, nodes, functions, modules. Flat SSA; six mutators alone touch a Func, so use lists are right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nomul.ir.dim import Dim, Range
from nomul.ir.types import DType, Tensor

if TYPE_CHECKING:
    from nomul.ir.encodings.terms import EncodedArray
    from nomul.ir.op import OpSpec

AttrValue = Any  # int | float | bool | str | DType | Dim | tuple of these; each op's signature gives the exact type
Scalar = int | float | bool


class Value:
    """A result of a node, or (producer None) a parameter of a function. users: (node, argument position) pairs."""

    def __init__(self, name: str, type: Tensor, producer: Node | None = None, index: int = 0) -> None:
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self.users: list[tuple[Node, int]] = []

    @property
    def shape(self) -> tuple[Dim, ...]:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def __str__(self) -> str:
        return f"%{self.name}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self} : {self.type}>"


class Weight(Value):
    """A named constant tensor of the module. fields: the encoding's packed arrays (`data` alone when dense);
    empty when only name and type are known (a `.nir` without its weights file).

    key: the name under which that file has it, where it has another one there and the data is not loaded."""

    def __init__(self, name: str, type: Tensor, fields: Mapping[str, np.ndarray] | None = None, key: str = "") -> None:
        super().__init__(name, type)
        self.fields: dict[str, np.ndarray] = dict(fields or {})
        self.key = key

    @staticmethod
    def dense(name: str, array: np.ndarray) -> Weight:
        """A weight without encoding. Raises KeyError for a dtype that the IR does not have."""
        shape = tuple(Dim.of(int(size)) for size in array.shape)
        return Weight(name, Tensor(DType.from_numpy(array.dtype), shape), {"data": array})

    def array(self) -> np.ndarray:
        """The decoded array, of the weight's dtype and shape. Raises LookupError when the data is not loaded."""
        return self.encoded().dense if self.type.encoding else self._data()["data"]

    def encoded(self) -> EncodedArray:
        """The packed fields with what they mean. Raises LookupError when the data is not loaded."""
        from nomul.ir.encodings.terms import EncodedArray

        assert self.type.encoding is not None
        shape = tuple(int(size) for size in self.shape)
        return EncodedArray(self.type.encoding, self._data(), shape, self.dtype.numpy)

    def _data(self) -> dict[str, np.ndarray]:
        if not self.fields:
            raise LookupError(f"weight @{self.name} has no data")
        return self.fields

    def __str__(self) -> str:
        return f"@{self.name}"


class Constant(Value):
    """A scalar literal, printed in place."""

    def __init__(self, value: Scalar, dtype: DType) -> None:
        super().__init__("", Tensor(dtype))
        self.value: Scalar = dtype.numpy.type(value).item()

    def __str__(self) -> str:
        return repr(self.value)


class Node:
    """One operation. args holds None for an absent optional operand. loc: the source layer, kept through rewrites."""

    def __init__(
        self,
        spec: OpSpec,
        args: tuple[Value | None, ...],
        attrs: dict[str, AttrValue],
        types: Iterable[Tensor],
        names: Iterable[str],
        loc: str | None = None,
    ) -> None:
        self.spec = spec
        self.args = args
        self.attrs = attrs
        self.loc = loc
        self.results = [
            Value(name, type, self, index) for index, (name, type) in enumerate(zip(names, types, strict=True))
        ]

    @property
    def op(self) -> str:
        return self.spec.name

    @property
    def result(self) -> Value:
        """The only result."""
        (result,) = self.results
        return result

    def operand(self, position: int) -> Value | None:
        """An operand that may be absent; those behind the last given one need not be in args."""
        return self.args[position] if len(self.args) > position else None

    def __repr__(self) -> str:
        return f"<Node {', '.join(map(str, self.results))} = {self.op}>"


class Func:
    """Parameters, nodes in execution order, returned values. Change it only through the six mutators below.

    result_names: what the source model calls its outputs; empty for private functions."""

    def __init__(self, name: str, params: Iterable[Value] = ()) -> None:
        self.name = name
        self.params: list[Value] = list(params)
        self.nodes: list[Node] = []
        self.returns: list[Value] = []
        self.result_names: tuple[str, ...] = ()
        self._names: dict[str, Value] = {param.name: param for param in self.params}

    # -- names -------------------------------------------------------------------------------------------------
    def lookup(self, name: str) -> Value | None:
        return self._names.get(name)

    def fresh(self, hint: str) -> str:
        """A name not used in this function, `hint` itself when it is free."""
        if hint and hint not in self._names:
            return hint
        base, number = hint or "v", 1
        while f"{base}.{number}" in self._names:
            number += 1
        return f"{base}.{number}"

    def values(self) -> Iterator[Value]:
        """Parameters and results in order of definition."""
        yield from self.params
        for node in self.nodes:
            yield from node.results

    # -- the six mutators --------------------------------------------------------------------------------------
    def insert(self, node: Node, before: Node | None = None) -> Node:
        """Add `node` in front of `before`, or at the end. Result names are made unique."""
        for result in node.results:
            result.name = self.fresh(result.name)
            self._names[result.name] = result
        for position, arg in enumerate(node.args):
            if arg is not None:
                arg.users.append((node, position))
        self.nodes.insert(self.nodes.index(before) if before else len(self.nodes), node)
        return node

    def replace_all(self, old: Value, new: Value) -> None:
        """Every use of `old`, returns included, becomes a use of `new`. Types must be equal."""
        if old is new:
            return
        for node, position in list(old.users):
            args = list(node.args)
            args[position] = new
            self.set_args(node, tuple(args))
        self.returns = [new if value is old else value for value in self.returns]

    def set_args(self, node: Node, args: tuple[Value | None, ...]) -> None:
        """Give `node` other operands."""
        for position, arg in enumerate(node.args):
            if arg is not None:
                arg.users.remove((node, position))
        node.args = args
        for position, arg in enumerate(args):
            if arg is not None:
                arg.users.append((node, position))

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody uses. Raises ValueError where one is still used."""
        for result in node.results:
            if result.users or any(value is result for value in self.returns):
                raise ValueError(f"{result} is still used")
        self.set_args(node, ())
        self.nodes.remove(node)
        for result in node.results:
            del self._names[result.name]

    def exchange_param(self, old: Value, new: Sequence[Value]) -> None:
        """Parameters in the place of one that nobody uses any more; the first takes its name, names are made unique.

        Raises ValueError where it is still used."""
        if old.users or any(value is old for value in self.returns):
            raise ValueError(f"{old} is still used")
        place = self.params.index(old)
        self.params[place : place + 1] = new
        del self._names[old.name]
        for value in new:
            value.name = self.fresh(value.name)
            self._names[value.name] = value

    def rename(self, value: Value, name: str) -> None:
        """Give a value of this function another name (made unique)."""
        del self._names[value.name]
        value.name = self.fresh(name)
        self._names[value.name] = value


@dataclass
class Module:
    """dims (named sizes and their ranges), weights, functions; `main` is the entry. level: what the nodes mean.

    after: the phase or pass (`PHASE.PASS`) that this module is the result of; compiling it goes on behind that.
    origin: what wrote the source model and in which version, for people to read.  source: facts of the source model
    that this module cannot tell any more (`compiler/report.py`). Both are no part of the text form."""

    dims: dict[str, Range] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    funcs: dict[str, Func] = field(default_factory=dict)
    level: Literal["tensor", "exec"] = "tensor"
    origin: str = ""
    after: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Func:
        return self.funcs["main"]

    def add_func(self, func: Func) -> Func:
        self.funcs[func.name] = func
        return func

    def fresh_func(self, hint: str) -> str:
        """A function name not yet used."""
        number = 0
        while (name := f"{hint}.{number}") in self.funcs:
            number += 1
        return name

    def add_weight(self, weight: Weight) -> Weight:
        """Add a weight; its name is made unique."""
        name, number = weight.name, 1
        while weight.name in self.weights:
            weight.name, number = f"{name}.{number}", number + 1
        self.weights[weight.name] = weight
        return weight

    def remove_weight(self, weight: Weight) -> None:
        """Drop a weight that nobody uses. Raises ValueError where it is still used."""
        if weight.users:
            raise ValueError(f"{weight} is still used")
        del self.weights[weight.name]

    def clone(self) -> Module:
        """A copy whose graph may be changed freely; weight arrays are shared (they are never written)."""
        copy = Module(dict(self.dims), {}, {}, self.level, self.origin, self.after, self.source)
        mapping: dict[Value, Value] = {}
        for weight in self.weights.values():
            mapping[weight] = copy.weights[weight.name] = Weight(weight.name, weight.type, weight.fields, weight.key)
        for func in self.funcs.values():
            copy.funcs[func.name] = clone_func(func, mapping)
        return copy


def clone_func(func: Func, mapping: dict[Value, Value] | None = None, name: str | None = None) -> Func:
    """A copy of one function. mapping: values to exchange (weights of another module); it is extended by the copies."""
    mapping = {} if mapping is None else mapping
    copy = Func(name or func.name, [Value(param.name, param.type) for param in func.params])
    mapping.update(zip(func.params, copy.params, strict=True))
    for node in func.nodes:
        args = tuple(arg if arg is None else mapping.get(arg) or _copy_constant(arg) for arg in node.args)
        types, names = [r.type for r in node.results], [r.name for r in node.results]
        twin = copy.insert(Node(node.spec, args, dict(node.attrs), types, names, node.loc))
        mapping.update(zip(node.results, twin.results, strict=True))
    copy.result_names = func.result_names
    copy.returns = [mapping.get(value) or _copy_constant(value) for value in func.returns]
    return copy


def _copy_constant(value: Value) -> Value:
    """A literal is copied, so that its use list belongs to one function; a weight is shared within its module."""
    return Constant(value.value, value.dtype) if isinstance(value, Constant) else value
