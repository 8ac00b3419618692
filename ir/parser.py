"""Reads the text form of a module (`.nir`): the order of statements, what names stand for, and all errors at once.

Codes: NM320 syntax, NM321 order of lines, NM322 unknown name, NM323 name given twice, NM324 number or size, NM325
version; faults of the verifier (NM300 to NM311) are shown under the guilty line, too.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from nomul.ir.errors import NomulError, Problem
from nomul.ir.expressions import Name, TextFault, closest
from nomul.ir.graph import Constant, Func, Module, Node, Value, Weight
from nomul.ir.op import OpSpec, TypeFault, all_ops
from nomul.ir.syntax import (
    After,
    Close,
    DimLine,
    FuncLine,
    Header,
    Level,
    NodeLine,
    Operand,
    Return,
    Statement,
    WeightLine,
    parse_line,
)
from nomul.ir.text import VERSION, name_text
from nomul.ir.types import Tensor
from nomul.ir.verifier import MOST_PROBLEMS, Fault, find_faults

SHOWN = 400  # letters of a line
LOCAL_FAULTS = ("NM303", "NM304", "NM305")  # faults of one node alone: true even when other lines could not be read


def parse_module(text: str) -> Module:
    """The module that the text stands for, verified; weights have no data yet (`ir/weights_file.py`).

    Raises NomulError with a Problem for each bad line."""
    reader = _Reader(text.split("\n"))
    module = reader.read()
    if reader.problems:
        ordered = sorted(reader.problems, key=lambda problem: problem.line or 0)
        raise NomulError.many(ordered[:MOST_PROBLEMS])
    return module


class _Reader:
    """lines_of: where nodes, functions and weights stand; columns: where the operands of a node stand in its line;
    stand_ins: results of bad lines of the function at hand."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.module = Module()
        self.problems: list[Problem] = []
        self.func: Func | None = None
        self.results: tuple[Tensor, ...] = ()
        self.returned = False
        self.stand_ins: dict[str, Value] = {}
        self.number = 0
        self.lines_of: dict[Any, int] = {}
        self.columns: dict[Node, list[int]] = {}
        self.started = False

    def read(self) -> Module:
        for number, line in enumerate(self.lines, 1):
            self.number = number
            if not line.lstrip() or line.lstrip().startswith(";"):
                continue
            try:
                self._statement(parse_line(line))
            except TextFault as fault:
                self._report(fault)
        self._finish()
        faults = find_faults(self.module)
        self.problems += [self._located(f) for f in faults if not self.problems or f.code in LOCAL_FAULTS]
        return self.module

    def _finish(self) -> None:
        if self.func is not None:
            self.number = self.lines_of[self.func]
            self._report(TextFault("NM321", f"function @{self.func.name} is not closed by a line with '}}'"))
        if not self.started and not self.problems:
            self.number = 1
            self._report(TextFault("NM325", "the file is empty", help=f"it must begin with 'nomul.ir {VERSION}'"))

    # -- problems ----------------------------------------------------------------------------------------------
    def _report(self, fault: TextFault) -> None:
        text = self.lines[self.number - 1]
        column = len(text) - len(text.lstrip()) if fault.column is None else fault.column
        self.problems.append(Problem(fault.code, fault.message, None, fault.help, *_excerpt(text, self.number, column)))

    def _located(self, fault: Fault) -> Problem:
        number = self.lines_of.get(fault.owner)
        if number is None:
            return Problem(fault.code, fault.message, help=fault.help)
        text = self.lines[number - 1]
        loc, column = None, len(text) - len(text.lstrip())
        if isinstance(fault.owner, Node):
            loc = fault.owner.loc
            column = column if fault.operand is None else self.columns[fault.owner][fault.operand]
        return Problem(fault.code, fault.message, loc, fault.help, *_excerpt(text, number, column))

    # -- statements --------------------------------------------------------------------------------------------
    def _statement(self, statement: Statement) -> None:
        if not self.started:
            self.started = True
            if not isinstance(statement, Header):
                raise TextFault("NM325", f"a file of this form begins with 'nomul.ir {VERSION}'")
        elif isinstance(statement, Header):
            raise TextFault("NM321", "a second header")
        inside = isinstance(statement, NodeLine | Return | Close)
        if inside and self.func is None:
            raise TextFault("NM321", "this line stands outside a function")
        if not inside and self.func is not None:
            message = f"this line cannot stand inside function @{self.func.name}"
            raise TextFault("NM321", message, help="close the function with '}'")
        handler = getattr(self, f"_{type(statement).__name__.lower()}")
        handler(statement)

    def _header(self, header: Header) -> None:
        if header.version != VERSION:
            raise TextFault("NM325", f"this is version {header.version} of the form, but nomul reads {VERSION}")

    def _level(self, level: Level) -> None:
        name, column = level.name
        if name not in ("tensor", "exec"):
            raise TextFault("NM322", f"unknown level '{name[:40]}'", column, "levels: tensor, exec")
        if self.module.funcs:
            raise TextFault("NM321", "the level must come before the first function")
        self.module.level = cast(Literal["tensor", "exec"], name)

    def _after(self, after: After) -> None:
        if self.module.after:
            raise TextFault("NM321", "a second line 'after'")
        if self.module.funcs:
            raise TextFault("NM321", "the line 'after' must come before the first function")
        self.module.after = after.label

    def _dimline(self, dim: DimLine) -> None:
        if dim.name in self.module.dims:
            raise TextFault("NM323", f"dim {dim.name} is declared twice")
        self.module.dims[dim.name] = (dim.low, dim.high)
        self.lines_of[dim.name] = self.number

    def _weightline(self, weight: WeightLine) -> None:
        if weight.name.text in self.module.weights:
            raise TextFault("NM323", f"weight @{weight.name.text} is declared twice", weight.name.column)
        made = self.module.weights[weight.name.text] = Weight(weight.name.text, weight.type, None, weight.key)
        self.lines_of[made] = self.number

    def _funcline(self, line: FuncLine) -> None:
        params = {name.text: Value(name.text, type) for name, type in line.params}
        self.func, self.results, self.returned = (
            Func(line.name.text, params.values()),
            tuple(type for _, type in line.outputs),
            False,
        )
        self.stand_ins = {}
        self.lines_of[self.func] = self.number
        if line.name.text in self.module.funcs:
            raise TextFault("NM323", f"function @{line.name.text} is defined twice", line.name.column)
        self.module.add_func(self.func)
        if len(params) < len(line.params):
            raise TextFault("NM323", "two parameters have the same name")
        names = tuple(name for name, _ in line.outputs if name is not None)
        if names and len(names) < len(line.outputs):
            raise TextFault("NM320", f"function @{line.name.text} must name all results or none")
        self.func.result_names = names

    def _close(self, close: Close) -> None:
        func, self.func = self.func, None
        if func is not None and not self.returned:
            raise TextFault("NM321", f"function @{func.name} ends without a return")

    def _return(self, line: Return) -> None:
        assert self.func is not None
        if self.returned:
            raise TextFault("NM321", "a second return")
        self.returned = True
        self.func.returns = [cast(Value, self._operand(operand)) for operand in line.operands]
        types = tuple(value.type for value in self.func.returns)
        if types != self.results:
            declared, given = (", ".join(map(str, some)) for some in (self.results, types))
            raise TextFault("NM303", f"function @{self.func.name} is declared to return ({declared}), not ({given})")

    # -- nodes -------------------------------------------------------------------------------------------------
    def _nodeline(self, line: NodeLine) -> None:
        assert self.func is not None
        if self.returned:
            raise TextFault("NM321", "this line stands behind the return")
        try:
            self._check_results(line.results)
            node = self._node(line)
        except TextFault:
            self._stand_in(line)
            raise
        self.func.insert(node)
        self.lines_of[node] = self.number
        self.columns[node] = [operand.column for operand in line.operands]

    def _node(self, line: NodeLine) -> Node:
        spec = _spec(line)
        args = tuple(self._operand(operand) for operand in line.operands)
        if len(line.types) != len(line.results):
            message = f"{len(line.results)} results, but {len(line.types)} types"
            raise TextFault("NM303", message, line.results[0].column)
        attributes = line.attributes | ({"func": line.callee.text} if line.callee else {})
        try:
            full = spec.complete(attributes)
        except TypeFault as fault:
            raise TextFault("NM305", fault.message, line.op.column, _attribute_hint(spec, attributes)) from None
        return Node(spec, args, full, line.types, [name.text for name in line.results], line.loc)

    def _check_results(self, names: tuple[Name, ...]) -> None:
        assert self.func is not None
        for position, name in enumerate(names):
            earlier = [other.text for other in names[:position]]
            if self.func.lookup(name.text) is not None or name.text in earlier or not name.text:
                state = f"%{name.text} is defined twice" if name.text else "a value has an empty name"
                raise TextFault("NM323", f"{state} in function @{self.func.name}", name.column)

    def _stand_in(self, line: NodeLine) -> None:
        """Results of a bad line can be used, so that the lines that use them are not called wrong as well."""
        for name, type in zip(line.results, line.types, strict=False):
            self.stand_ins.setdefault(name.text, Value(name.text, type))

    def _operand(self, operand: Operand) -> Value | None:
        assert self.func is not None
        what = operand.what
        if what is None or isinstance(what, Constant):
            return what
        if operand.is_weight:
            found: Value | None = self.module.weights.get(what)
        else:
            found = self.func.lookup(what) or self.stand_ins.get(what)
        if found is None:
            known = self.module.weights if operand.is_weight else [value.name for value in self.func.values()]
            sigil, place = ("@", "in this file") if operand.is_weight else ("%", "above this line in this function")
            message = f"{sigil}{name_text(what)} is not defined {place}"
            raise TextFault("NM322", message, operand.column, closest(what, known))
        return found


def _spec(line: NodeLine) -> OpSpec:
    ops = all_ops()
    spec = ops.get(line.op.text)
    if spec is None:
        raise TextFault("NM322", f"unknown op '{line.op.text[:60]}'", line.op.column, closest(line.op.text, ops))
    if ("func" in spec.attributes) != (line.callee is not None):
        wanted = "is written with the function that it calls: " if "func" in spec.attributes else "calls no function: "
        example = f"{spec.name} @f(%x)" if "func" in spec.attributes else f"{spec.name} %x"
        raise TextFault("NM320", f"{spec.name} {wanted}{example}", line.op.column)
    return spec


def _attribute_hint(spec: OpSpec, attributes: dict[str, Any]) -> str | None:
    unknown = next((name for name in attributes if name not in spec.attributes), None)
    return closest(unknown, spec.attributes) if unknown else None


def _excerpt(text: str, number: int, column: int) -> tuple[str, int, int]:
    """The line as an error shows it, its number and the caret: on one screen line, without control characters."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text.rstrip(" \t\r"))
    start = max(column - SHOWN // 2, 0) if column > SHOWN else 0
    piece = clean[start : start + SHOWN]
    before, after = "..." * (start > 0), "..." * (start + SHOWN < len(clean))
    return f"{before}{piece}{after}", number, column - start + len(before)
