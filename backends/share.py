"""Kernels of one object that differ only in sizes become one function that takes them, and a short entry each.

A size is an int64 expression of literals and named dims. Where several functions are equal but for their sizes, those
that differ become parameters behind the kernel interface's own; each kernel's symbol then only calls the shared
function with its sizes. Results do not change: the same operations run in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi

from nomul.backends import tvm_alone  # noqa: F401  (before tvm)

# isort: split

from tvm import ir, tirx

LEAST_ACCESSES = 20  # loads and stores of a function that is worth an entry for each kernel
_BINARY = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Mod, tirx.FloorDiv, tirx.FloorMod, tirx.Min, tirx.Max)
_StructuralKey: Any = tvm_ffi.StructuralKey  # its declared types are not those that it takes
_SIZE = tirx.Var("size", "int64")  # stands for every size in the form by which functions are compared

Expr = Any
Fill = Callable[[Expr], Expr]


def share(functions: Mapping[str, Any]) -> dict[Any, Any]:
    """The functions by symbol, and by GlobalVar those that they share, which are private to the object."""
    families: dict[Any, list[_Member]] = {}
    for symbol, function in functions.items():
        member = _Member.of(symbol, function)
        if member is not None:
            families.setdefault(member.form, []).append(member)
    result: dict[Any, Any] = dict(functions)
    for members in families.values():
        if len(members) > 1:
            result.update(_shared(members))
    return result


@dataclass(frozen=True)
class _Member:
    """A function and its sizes, in the order of its text. form: equal for functions that differ only in sizes."""

    symbol: str
    function: Any
    sizes: tuple[Expr, ...]
    form: Any

    @staticmethod
    def of(symbol: str, function: Any) -> _Member | None:
        """None for a function that is too short."""
        sizes: list[Expr] = []

        def note(size: Expr) -> Expr:
            sizes.append(size)
            return _SIZE

        walk = _Walk(function, note)
        body = walk.body()
        if walk.accesses < LEAST_ACCESSES:
            return None
        form = _StructuralKey(tirx.PrimFunc(_split(function)[0], body, function.ret_type))
        return _Member(symbol, function, tuple(sizes), form)


def _split(function: Any) -> tuple[list[Any], list[Any]]:
    """(pointers and tile range, named dims) of a kernel's parameters."""
    *first, begin, end, scratch = function.params
    dims = [param for param in first if isinstance(param.ty, ir.PrimType)]
    return [*(param for param in first if not isinstance(param.ty, ir.PrimType)), begin, end, scratch], dims


class _Walk:
    """A function's body with other expressions in place of its sizes. accesses: loads and stores seen."""

    def __init__(self, function: Any, fill: Fill) -> None:
        self.function, self.fill = function, fill
        self.accesses = 0
        self._dims = _split(function)[1]

    def body(self) -> Any:
        callbacks = [
            ((tirx.Var, tirx.IntImm, *_BINARY), self._number),
            (tirx.Ramp, self._ramp),
            (ir.TensorLoad, self._load),
            (tirx.BufferStore, self._store),
            (tirx.AllocBuffer, lambda value, mutator: value),
        ]
        return tvm_ffi.structural_mutate(self.function.body, callbacks)

    def _number(self, value: Expr, mutator: Any) -> Expr:
        return self.fill(value) if self._is_size(value) else mutator.default_mutate(value)

    def _is_size(self, value: Expr) -> bool:
        if isinstance(value, tirx.IntImm):
            return str(value.ty.dtype) == "int64"
        if isinstance(value, tirx.Var):
            return any(value.same_as(dim) for dim in self._dims)
        return isinstance(value, _BINARY) and self._is_size(value.a) and self._is_size(value.b)

    def _ramp(self, value: Expr, mutator: Any) -> Expr:
        """A literal stride decides what instructions there are."""
        stride = value.stride if isinstance(value.stride, tirx.IntImm) else mutator.mutate(value.stride)
        return tirx.Ramp(mutator.mutate(value.base), stride, value.lanes)

    def _load(self, value: Expr, mutator: Any) -> Expr:
        self.accesses += 1
        return value if _in_registers(value.source) else mutator.default_mutate(value)

    def _store(self, value: Any, mutator: Any) -> Any:
        self.accesses += 1
        if not _in_registers(value.buffer):
            return mutator.default_mutate(value)
        return tirx.BufferStore(value.buffer, mutator.mutate(value.value), value.indices)


def _in_registers(buffer: Any) -> bool:
    """Places in such buffers are names of registers."""
    return bool(buffer.scope() == "local")


def _shared(members: Sequence[_Member]) -> dict[Any, Any]:
    """The functions of a family: the shared one and an entry for each member."""
    first = members[0]
    shared = ir.GlobalVar(f"{first.symbol}_shared")
    columns = [tuple(sizes) for sizes in zip(*(member.sizes for member in members), strict=True)]
    arguments = _Arguments(columns)
    places = iter(arguments.places)
    body = _Walk(first.function, lambda size: _or_same(next(places), size)).body()
    kept = _split(first.function)[0]
    functions = {shared: tirx.PrimFunc([*kept, *arguments.params], body, first.function.ret_type)}
    for number, member in enumerate(members):
        sizes = [column[number] for column in arguments.columns]
        call = ir.Call(shared, [*_split(member.function)[0], *sizes], ret_ty=ir.PrimType("int32"))
        done = tirx.Return(tirx.IntImm("int32", 0))  # as every kernel returns, and all that TVM can return
        functions[member.symbol] = member.function.with_body(tirx.SeqStmt([tirx.Evaluate(call), done]))
    return functions


def _or_same(place: Expr | None, size: Expr) -> Expr:
    return size if place is None else place


class _Arguments:
    """The parameters that a family's sizes need. columns: each parameter's size in every member.

    places: for each size of the text the expression of parameters that gives it; None where all members agree."""

    def __init__(self, columns: Sequence[tuple[Expr, ...]]) -> None:
        self.params: list[Any] = []
        self.columns: list[tuple[Expr, ...]] = []
        self._found: dict[Any, Expr] = {}
        self._literal: list[tuple[tuple[int, ...], Expr]] = []
        ordered = sorted(range(len(columns)), key=lambda number: _literals(columns[number]) or ())
        found = {number: self._place(columns[number]) for number in ordered}
        self.places = [found[number] for number in range(len(columns))]

    def _place(self, column: tuple[Expr, ...]) -> Expr | None:
        values = _literals(column)
        if values is not None and len(set(values)) == 1:
            return None
        key = values or _StructuralKey(list(column))
        if key not in self._found:
            multiple = None if values is None else self._multiple(values)
            self._found[key] = self._parameter(column) if multiple is None else multiple
            if values is not None and multiple is None:
                self._literal.append((values, self._found[key]))
        return self._found[key]

    def _multiple(self, values: tuple[int, ...]) -> Expr | None:
        """A multiple of a parameter: addresses of neighbouring rows then need no register each."""
        for base, param in self._literal:
            factor = values[0] // base[0] if base[0] else 0
            if factor and all(value == factor * part for value, part in zip(values, base, strict=True)):
                return param * tirx.IntImm("int64", factor)
        return None

    def _parameter(self, column: tuple[Expr, ...]) -> Expr:
        self.columns.append(column)
        self.params.append(tirx.Var(f"size_{len(self.params)}", "int64"))
        return self.params[-1]


def _literals(column: tuple[Expr, ...]) -> tuple[int, ...] | None:
    """The values of a column of literals."""
    if not all(isinstance(size, tirx.IntImm) for size in column):
        return None
    return tuple(int(size.value) for size in column)
