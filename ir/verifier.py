"""Checks a module: types recomputed, SSA order, names, use lists, dims, weights, calls. Runs after every pass.

Codes: NM300 structure, NM301 names, NM302 order of definition, NM303 result types, NM304 operands, NM305 attributes,
NM306 dims, NM307 weights, NM308 weight data, NM309 calls, NM310 use lists, NM311 level.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import TypeFault, type_text
from nomul.ir.text import Line, module_lines, operand_column, operand_text
from nomul.ir.types import DType, Tensor

MOST_PROBLEMS = 50


class Fault(NamedTuple):
    """Something that breaks a rule of the IR. owner: a dim by its name.  operand: position of the guilty operand of a
    node, or None."""

    code: str
    message: str
    owner: Node | Func | Weight | str | None = None
    operand: int | None = None
    help: str | None = None


def verify(module: Module, *, context: int = 0) -> None:
    """Raises NomulError with one Problem for each fault, in order of the text.

    context: how many printed lines to show before and after the guilty one."""
    faults = find_faults(module)
    if faults:
        raise NomulError.many(located(module, faults[:MOST_PROBLEMS], context))


def find_faults(module: Module) -> list[Fault]:
    """Everything that is wrong, without places in a text."""
    return list(_Checker(module).faults())


def located(module: Module, faults: list[Fault], context: int = 0) -> list[Problem]:
    """The faults as problems that point into the printed module."""
    lines = list(module_lines(module))
    numbers: dict[Any, int] = {}
    for number, line in enumerate(lines):
        if line.owner is not None:
            numbers.setdefault(line.owner, number)
    return [_problem(fault, lines, numbers.get(fault.owner), context) for fault in faults]


def _problem(fault: Fault, lines: list[Line], number: int | None, context: int) -> Problem:
    if number is None:
        return Problem(fault.code, fault.message, help=fault.help)
    loc, column = None, None
    if isinstance(fault.owner, Node):
        loc = fault.owner.loc
        column = 2 if fault.operand is None else operand_column(fault.owner, fault.operand)
    before = tuple(line.text for line in lines[max(0, number - context) : number])
    after = tuple(line.text for line in lines[number + 1 : number + 1 + context])
    text = lines[number].text
    return Problem(fault.code, fault.message, loc, fault.help, text, number + 1, column, before, after)


class _Checker:
    """One walk over a module. checked: types whose sizes have been looked at already."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.uses: dict[Value, list[tuple[Node, int]]] = {}
        self.checked: set[Tensor] = set()
        self.declared = frozenset(module.dims)

    def faults(self) -> Iterator[Fault]:
        yield from self._dims()
        yield from self._weights()
        for name, func in self.module.funcs.items():
            if func.name != name:
                yield Fault("NM301", f"function @{func.name} is registered as '{name}'", func)
            yield from self._func(func)
        yield from self._known_dims()
        yield from self._recursion()
        yield from self._use_lists()

    # -- declarations ------------------------------------------------------------------------------------------
    def _dims(self) -> Iterator[Fault]:
        for name, (low, high) in self.module.dims.items():
            if not name:
                yield Fault("NM301", "a dim has no name", name)
            if low < 0 or high < low:
                yield Fault("NM306", f"dim {name} has the empty or negative range [{low}, {high}]", name)

    def _weights(self) -> Iterator[Fault]:
        for name, weight in self.module.weights.items():
            if weight.name != name or not name:
                yield Fault("NM301", f"weight @{weight.name} is registered as '{name}'", weight)
            if not all(size.is_constant for size in weight.shape):
                yield Fault("NM307", f"the shape of weight @{name} must be constant", weight)
                continue
            yield from self._sizes(weight.type, weight)
            reason = _unfit(weight.type)
            if reason:
                yield Fault("NM307", f"weight @{name} cannot be stored as {weight.type.encoding}: {reason}", weight)
                continue
            message = data_fault(weight)
            if message:
                yield Fault("NM308", f"weight @{name} : {weight.type} {message}", weight)

    def _sizes(self, type: Tensor, owner: Node | Func | Weight) -> Iterator[Fault]:
        if type in self.checked:
            return
        self.checked.add(type)
        for size in type.shape:
            yield from self._undeclared(size, owner)
            if size.bounds(self.module.dims)[1] < 0:
                yield Fault("NM306", f"size {size} of {type} is negative", owner)

    def _undeclared(self, size: Dim, owner: Node | Func | Weight) -> Iterator[Fault]:
        if size.is_constant or size.names() <= self.declared:
            return
        missing = sorted(size.names() - self.declared)
        known = ", ".join(self.module.dims) or "none"
        yield Fault(
            "NM306", f"dim {', '.join(missing)} in size {size} is not declared", owner, help=f"declared dims: {known}"
        )

    def _known_dims(self) -> Iterator[Fault]:
        """Every dim of the module's types must show in the shape of an input, or nobody could know it."""
        main = self.module.funcs.get("main")
        if main is None:
            return
        known = {name for param in main.params for size in param.shape for name in size.names()}
        used = {name for type in self.checked for size in type.shape for name in size.names()}
        for name in sorted((used - known) & self.declared):
            yield Fault("NM306", f"dim {name} is in no parameter of @main, so its value cannot be known", main)

    # -- functions ---------------------------------------------------------------------------------------------
    def _func(self, func: Func) -> Iterator[Fault]:
        if not func.returns:
            yield Fault("NM300", f"function @{func.name} returns nothing", func)
        if func.result_names and len(func.result_names) != len(func.returns):
            counts = f"{len(func.result_names)} of {len(func.returns)}"
            yield Fault("NM300", f"function @{func.name} names {counts} results", func)
        defined: set[Value] = set()
        names: set[str] = set()
        for param in func.params:
            yield from self._definition(func, param, None, names)
            defined.add(param)
            if param.type.encoding and func.name == "main":
                yield Fault("NM307", f"parameter %{param.name} of @main has an encoding, which only weights have", func)
        for node in func.nodes:
            yield from self._node(func, node, defined)
            for index, result in enumerate(node.results):
                yield from self._definition(func, result, node, names)
                if result.index != index:
                    yield Fault("NM310", f"%{result.name} has the wrong result index", node)
            defined.update(node.results)
        for value in func.returns:
            message = self._unusable(value, defined)
            if message:
                yield Fault("NM302", message, func)

    def _definition(self, func: Func, value: Value, node: Node | None, names: set[str]) -> Iterator[Fault]:
        owner = node or func
        if value.name in names or not value.name:
            yield Fault("NM301", f"the name %{value.name} is {'taken' if value.name else 'empty'}", owner)
        elif func.lookup(value.name) is not value:
            yield Fault("NM310", f"function @{func.name} does not know its value %{value.name}", owner)
        names.add(value.name)
        if value.producer is not node:
            yield Fault("NM310", f"%{value.name} has the wrong producer", owner)
        if value.type.encoding and node is not None:
            yield Fault("NM307", f"result %{value.name} has an encoding, which only weights have", owner)
        yield from self._sizes(value.type, owner)

    def _unusable(self, value: Value, defined: set[Value]) -> str | None:
        if value in defined or isinstance(value, Constant):
            return None
        if isinstance(value, Weight):
            known = self.module.weights.get(value.name) is value
            return None if known else f"weight @{value.name} is not in the module"
        return f"%{value.name} is not defined before its use in this function"

    # -- nodes -------------------------------------------------------------------------------------------------
    def _node(self, func: Func, node: Node, defined: set[Value]) -> Iterator[Fault]:
        sound = True
        for position, arg in enumerate(node.args):
            if arg is None:
                continue
            self.uses.setdefault(arg, []).append((node, position))
            message = self._unusable(arg, defined)
            if message:
                sound = False
                yield Fault("NM307" if isinstance(arg, Weight) else "NM302", message, node, position)
        yield from self._level(func, node)
        faults = [*self._attributes(node)]
        yield from faults
        if sound and not faults:
            yield from self._callee(node) if "func" in node.attrs else self._types(node)

    def _level(self, func: Func, node: Node) -> Iterator[Fault]:
        executable = node.op.startswith("exec.")
        if executable and (self.module.level != "exec" or func.name != "main"):
            yield Fault("NM311", f"{node.op} stands only in @main of a module of level exec", node)
        if not executable and self.module.level == "exec" and func.name == "main":
            yield Fault("NM311", f"{node.op} cannot stand in @main of a module of level exec", node)

    def _attributes(self, node: Node) -> Iterator[Fault]:
        attributes = node.spec.attributes
        if node.attrs.keys() != attributes.keys():
            extra = sorted(node.attrs.keys() - attributes.keys())
            missing = [name for name in attributes if name not in node.attrs]
            message = f"has no attribute '{extra[0]}'" if extra else f"lacks the attribute '{missing[0]}'"
            yield Fault("NM305", f"{node.op} {message}", node)
            return
        for name, value in node.attrs.items():
            attribute = attributes[name]
            if not (value is None and attribute.default is None) and not _has_type(value, attribute.type):
                message = f"attribute '{name}' must be {type_text(attribute.type)}, not {value!r}"
                yield Fault("NM305", message, node)
                continue
            if attribute.choices and value not in attribute.choices:
                yield Fault("NM305", f"attribute '{name}' must be one of {', '.join(attribute.choices)}", node)
            for size in value if isinstance(value, tuple) else (value,):
                if isinstance(size, Dim):
                    yield from self._undeclared(size, node)

    def _types(self, node: Node) -> Iterator[Fault]:
        types = [arg.type if arg is not None else None for arg in node.args]
        if node.args and node.args[-1] is None:
            yield Fault("NM304", f"{node.op} has an absent last operand, which should be left out", node)
        try:
            expected = _view_types(node) if node.op == "exec.view" else node.spec.result_types(types, node.attrs)
        except TypeFault as fault:
            operand = fault.operand if fault.operand is not None and fault.operand < len(node.args) else None
            yield Fault("NM304", fault.message, node, operand)
            return
        yield from _compare(node, expected)

    # -- calls -------------------------------------------------------------------------------------------------
    def _callee(self, node: Node) -> Iterator[Fault]:
        callee = self.module.funcs.get(node.attrs["func"])
        if callee is None:
            known = ", ".join(f"@{name}" for name in self.module.funcs)
            yield Fault("NM309", f"there is no function @{node.attrs['func']}", node, help=f"functions: {known}")
            return
        if len(callee.params) != len(node.args):
            message = f"@{callee.name} takes {len(callee.params)} operands, not {len(node.args)}"
            yield Fault("NM309", message, node)
            return
        for position, (arg, param) in enumerate(zip(node.args, callee.params, strict=True)):
            if arg is None or arg.type != param.type:
                given = "absent" if arg is None else arg.type
                message = f"operand {position} of @{callee.name} must be {param.type}, but is {given}"
                yield Fault("NM309", message, node, position)
        yield from _compare(node, tuple(value.type for value in callee.returns))

    def _recursion(self) -> Iterator[Fault]:
        callees = {
            name: [n.attrs["func"] for n in func.nodes if isinstance(n.attrs.get("func"), str)]
            for name, func in self.module.funcs.items()
        }
        done: set[str] = set()
        while leaves := [name for name in callees if name not in done and done.issuperset(_known(callees, name))]:
            done.update(leaves)
        for name in callees.keys() - done:
            yield Fault("NM309", f"function @{name} calls itself, directly or through others", self.module.funcs[name])

    # -- use lists ---------------------------------------------------------------------------------------------
    def _use_lists(self) -> Iterator[Fault]:
        values = [value for func in self.module.funcs.values() for value in func.values()]
        for value in dict.fromkeys([*values, *self.module.weights.values(), *self.uses]):
            actual = self.uses.get(value, [])
            if len(value.users) != len(actual) or set(value.users) != set(actual):
                owner = value if isinstance(value, Weight) else value.producer
                name = operand_text(value)
                yield Fault("NM310", f"the use list of {name} is wrong", owner or (actual[0][0] if actual else None))


def _known(callees: dict[str, list[str]], name: str) -> set[str]:
    return {callee for callee in callees[name] if callee in callees}


def _compare(node: Node, expected: tuple[Tensor, ...]) -> Iterator[Fault]:
    if len(expected) != len(node.results):
        yield Fault("NM303", f"{node.op} has {len(expected)} results, not {len(node.results)}", node)
        return
    for result, type in zip(node.results, expected, strict=True):
        if result.type != type:
            yield Fault("NM303", f"%{result.name} is declared {result.type}, but {node.op} gives {type}", node)


def _view_types(node: Node) -> tuple[Tensor, ...]:
    """exec.view keeps dtype and number of elements; its result's own type says the shape."""
    if len(node.args) != 1 or node.args[0] is None:
        raise TypeFault("exec.view takes one operand")
    given, result = node.args[0].type, node.result.type
    if given.dtype is not result.dtype or given.numel != result.numel:
        raise TypeFault(f"exec.view cannot show {given} as {result}", 0)
    return (result,)


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return isinstance(value, tuple) and all(_has_type(item, kind[1]) for item in value)
    return type(value) is kind or (kind is DType and isinstance(value, DType))


def _unfit(type: Tensor) -> str | None:
    """Why weights of this constant shape cannot have their encoding, or None."""
    try:
        if type.encoding is not None:
            type.encoding.field_types(tuple(int(size) for size in type.shape))
    except ValueError as error:
        return str(error)
    return None


def data_fault(weight: Weight) -> str | None:
    """What is wrong with a weight's arrays, or None. A weight without data (only name and type known) is in order."""
    if not weight.fields:
        return None
    encoding, shape = weight.type.encoding, tuple(int(size) for size in weight.shape)
    expected = encoding.field_types(shape) if encoding else {"data": (weight.dtype.numpy, shape)}
    if weight.fields.keys() != expected.keys():
        return f"has the fields {', '.join(weight.fields)}, but needs {', '.join(expected)}"
    for name, (dtype, field_shape) in expected.items():
        array = weight.fields[name]
        if array.dtype != dtype or array.shape != field_shape:
            return f"has {array.dtype}{list(array.shape)} as its field '{name}', not {dtype}{list(field_shape)}"
    return None
