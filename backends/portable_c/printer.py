"""Prints one kernel, a TIRx function with the interface of `docs/kernels.md`, as a C function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nomul.backends.c_text import identifier
from nomul.backends.emit import Same
from nomul.backends.portable_c import intervals
from nomul.backends.portable_c.expressions import Expressions
from nomul.backends.portable_c.facts import Facts
from nomul.backends.portable_c.intervals import INT32, Interval, full
from nomul.backends.portable_c.terms import ATOM, SUM, Term, Unprintable, c_type, integer, kind_of

Stmt = Any  # a tvm Stmt; tvm has no type stubs

_WORDS_OF_C = """auto break case char const continue default do double else enum extern float for goto if inline int
    long register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while
    asm isnan fabs floor ceil trunc rint sqrt copysign fabsf floorf ceilf truncf rintf sqrtf copysignf"""
_TAKEN = frozenset(_WORDS_OF_C.split())
_SERIAL = (0, 3)  # kinds of loops: serial, and unrolled by whoever compiles the C


def print_function(function: Any, symbol: str, ranges: Mapping[str, Interval]) -> str:
    """The C text of a kernel. ranges: what its integer parameters can be, by name. Raises Unprintable."""
    facts = Facts()
    return facts.settle(lambda: _Body(function, facts, ranges).text(symbol))


@dataclass(frozen=True)
class _Variable:
    """name: in C.  pointed: whether it points to elements, or is an array of them."""

    name: str
    dtype: str
    pointed: bool = False


@dataclass
class _Body:
    """One pass over a function. variables, keys: by variable and by name in C.  taken: names in use.  fixed: those of
    them whose value never changes."""

    function: Any
    facts: Facts
    ranges: Mapping[str, Interval]
    variables: dict[Same, _Variable] = field(default_factory=dict)
    keys: dict[str, Same] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    fixed: set[str] = field(default_factory=set)
    depth: int = 1

    def text(self, symbol: str) -> str:
        self.expressions = Expressions(self)
        heads = [self._parameter(param) for param in self.function.params]
        self._statement(self.function.body)
        unused = [self.variables[key].name for key in map(Same, self.function.params) if key not in self.facts.reads]
        ignored = ["  " + ", ".join(f"(void){name}" for name in unused) + ";"] if unused else []
        parameters = ", ".join(head for head, _ in heads)
        narrow = [line for (_, line), param in zip(heads, self.function.params, strict=True) if self._narrow(param)]
        signature = f"NM_HIDDEN int32_t {symbol}({parameters})"
        return "\n".join([f"{signature};", f"{signature} {{", *ignored, *narrow, *self.lines, "}", ""])

    # -- names -------------------------------------------------------------------------------------------------
    def _declare(self, variable: Any, dtype: str, pointed: bool = False) -> _Variable:
        base = identifier(variable.name or "value")
        base = f"v{base}" if base.startswith("_") else base  # C keeps many of those for itself
        name, number = f"{base}_" if base in _TAKEN else base, 1
        while name in self.taken:
            name, number = f"{base}_{number}", number + 1
        self.taken.add(name)
        key = Same(variable)
        self.keys[name] = key
        self.variables[key] = _Variable(name, dtype, pointed)
        return self.variables[key]

    def _parameter(self, param: Any) -> tuple[str, str]:
        """Its declaration, and a line that puts it into 32 bits where it fits."""
        dtype = str(param.ty) if "handle" not in str(param.ty) else "handle"
        name = self._declare(param, dtype, dtype == "handle").name
        if dtype == "handle":
            return f"void *{name}", ""
        self.fixed.add(name)
        self.facts.may_be(Same(param), self.ranges.get(param.name, full(dtype)), dtype)
        if self.facts.interval(Same(param), dtype) not in INT32:
            return f"{c_type(dtype)} {name}", ""
        wide = f"wide_{name}" if self.facts.is_alive(Same(param)) else name
        return f"{c_type(dtype)} {wide}", f"  const int32_t {name} = (int32_t){wide};"

    def _narrow(self, param: Any) -> bool:
        """Whether the parameter is used, and in 32 bits."""
        key = Same(param)
        variable = self.variables[key]
        return not variable.pointed and key in self.facts.reads and self.facts.interval(key, variable.dtype) in INT32

    def _type(self, key: Same) -> str:
        """The C type of a scalar variable."""
        dtype = self.variables[key].dtype
        if dtype == "bool" or (dtype == "int64" and self.facts.interval(key, dtype) in INT32):
            return "int32_t"
        return c_type(dtype)

    def variable(self, variable: Any) -> Term:
        key = Same(variable)
        found = self.variables[key]
        if found.pointed:
            raise Unprintable(f"the pointer {found.name} as a value")
        if found.dtype.startswith("float"):
            return Term(found.name, ATOM, kind_of(found.dtype))
        inside = self.facts.interval(key, found.dtype)
        if inside.low == inside.high and found.dtype != "bool":
            return integer(inside.low, found.dtype)
        return Term(found.name, ATOM, "int32_t" if self._type(key) == "int32_t" else kind_of(found.dtype), inside)

    def element(self, buffer: Any, place: Callable[[], Term], dtype: str) -> Term:
        key = Same(buffer)
        found = self.variables[key]
        if not found.pointed:
            return self.variable(buffer)
        inside = None if dtype.startswith("float") else full(dtype)
        return Term(f"{found.name}[{place().text}]", ATOM, kind_of(dtype), inside)

    # -- statements --------------------------------------------------------------------------------------------
    def _line(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def _read(self, term: Term) -> str:
        """The text of an expression that is printed: it reads all variables that are still in it."""
        self.facts.reads.update(self.keys[word] for word in re.findall(r"[A-Za-z_]\w*", term.text) if word in self.keys)
        return term.text

    def _block(self, head: str, body: Stmt, tail: str = "}") -> None:
        self._line(head)
        self.depth += 1
        self._statement(body)
        self.depth -= 1
        if tail:
            self._line(tail)

    def _statement(self, stmt: Stmt) -> None:
        method = getattr(self, f"_{type(stmt).__name__}", None)
        if method is None:
            raise Unprintable(f"statement {type(stmt).__name__}")
        method(stmt)

    def _SeqStmt(self, stmt: Stmt) -> None:
        parts, position = list(stmt.seq), 0
        while position < len(parts):
            part, following = parts[position], parts[position + 1] if position + 1 < len(parts) else None
            if type(part).__name__ == "AllocBuffer" and self._starts(part.buffer, following):
                self._defined(part.buffer, following)
                position += 2
            else:
                self._statement(part)
                position += 1

    def _starts(self, buffer: Any, stmt: Stmt) -> bool:
        """Whether a statement gives the scalar `buffer` its first value."""
        return _length(buffer) == 1 and type(stmt).__name__ == "BufferStore" and stmt.buffer.same_as(buffer)

    def _defined(self, buffer: Any, store: Stmt) -> None:
        """A declaration with its first value."""
        value = self._stored(buffer, store, lambda: self._declare(buffer, str(buffer.ty.dtype)))
        if value is None:
            return
        key, name = Same(buffer), self.variables[Same(buffer)].name
        constant = "const " if self.facts.is_constant(key) else ""
        self._line(f"{constant}{self._type(key)} {name} = {self._read(value)};")
        if constant:
            self.fixed.add(name)

    def _AllocBuffer(self, stmt: Stmt) -> None:
        length = _length(stmt.buffer)
        found = self._declare(stmt.buffer, str(stmt.buffer.ty.dtype), length != 1)
        if self.facts.is_alive(Same(stmt.buffer)):
            kind = c_type(found.dtype) if found.pointed else self._type(Same(stmt.buffer))
            self._line(f"{kind} {found.name}[{length}];" if found.pointed else f"{kind} {found.name};")

    def _DeclBuffer(self, stmt: Stmt) -> None:
        key, dtype = Same(stmt.buffer), str(stmt.buffer.ty.dtype)
        name = self._declare(stmt.buffer, dtype, pointed=True).name
        if not self.facts.is_alive(key):
            return
        self.facts.reads.add(Same(stmt.data))
        constant = "" if self.facts.is_written(key) else "const "
        self._line(f"{constant}{c_type(dtype)} *const {name} = {self.variables[Same(stmt.data)].name};")

    def _stored(self, buffer: Any, stmt: Stmt, declare: Callable[[], Any] = lambda: None) -> Term | None:
        """The value of a store to a scalar; None where nobody reads the scalar."""
        key = Same(buffer)
        value = self.expressions.term(stmt.value) if self.facts.is_alive(key) else None
        declare()
        if value is not None:
            self.facts.stores[key] += 1
            if value.interval is not None:
                self.facts.may_be(key, value.interval, self.variables[key].dtype)
        return value

    def _BufferStore(self, stmt: Stmt) -> None:
        key = Same(stmt.buffer)
        found = self.variables[key]
        if not found.pointed:
            value = self._stored(stmt.buffer, stmt)
            if value is not None:
                self._line(f"{found.name} = {self._read(value)};")
            return
        self.facts.reads.add(key)
        self.facts.stores[key] += 1
        place, value = self.expressions.term(stmt.indices[0]), self.expressions.term(stmt.value)
        self._line(f"{found.name}[{self._read(place)}] = {self._read(value)};")

    def _Bind(self, stmt: Stmt) -> None:
        key, dtype = Same(stmt.var), str(stmt.var.ty)
        value = self.expressions.term(stmt.value) if self.facts.is_alive(key) else None
        name = self._declare(stmt.var, dtype).name
        if value is not None:
            self.facts.stores[key] += 1
            if value.interval is not None:
                self.facts.may_be(key, value.interval, dtype)
            self._line(f"const {self._type(key)} {name} = {self._read(value)};")
            self.fixed.add(name)

    def _For(self, stmt: Stmt) -> None:
        if int(stmt.kind) not in _SERIAL or stmt.step is not None:
            raise Unprintable("loops that are not serial with step 1")
        start, end = self.expressions.term(stmt.min), self._loop_end(stmt)
        dtype = str(stmt.loop_var.ty)
        if intervals.decide(">=", start.integers, end.integers):
            self._declare(stmt.loop_var, dtype)
            return
        name, key = self._declare(stmt.loop_var, dtype).name, Same(stmt.loop_var)
        self.facts.may_be(key, Interval(start.integers.low, max(end.integers.high - 1, start.integers.low)), dtype)
        kind = "int32_t" if start.integers.union(end.integers) in INT32 and dtype == "int64" else c_type(dtype)
        limit = self._fixed(end, kind, f"{name}_end")
        self.fixed.add(name)
        self._block(f"for ({kind} {name} = {self._read(start)}; {name} < {limit}; {name}++) {{", stmt.body)

    def _loop_end(self, stmt: Stmt) -> Term:
        """The first number behind the range of a loop; `begin + (end - begin)` is end."""
        extent = stmt.extent
        if type(extent).__name__ == "Sub" and (extent.b.same_as(stmt.min) or _same_literal(extent.b, stmt.min)):
            return self.expressions.term(extent.a)
        start, length = self.expressions.term(stmt.min), self.expressions.term(extent)
        if start.integers == (0, 0):
            return length
        total = intervals.add(start.integers, length.integers)
        if total not in INT32:
            raise Unprintable("a loop over a range that is not known to be short")
        return Term(f"{start.within(SUM)} + {length.within(ATOM)}", SUM, "int32_t", total)

    def _fixed(self, end: Term, kind: str, name: str) -> str:
        """The text of a loop's end: a number, or else a constant, since the body may change what the end is made of."""
        if end.integers.low == end.integers.high:
            return integer(end.integers.low, "int64").text
        if end.text in self.fixed:
            return self._read(end)
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        self._line(f"const {kind} {name} = {self._read(end)};")
        return name

    def _While(self, stmt: Stmt) -> None:
        self._block(f"while ({self._read(self.expressions.term(stmt.condition))}) {{", stmt.body)

    def _IfThenElse(self, stmt: Stmt) -> None:
        condition = self.expressions.term(stmt.condition)
        if condition.text in "01":
            branch = stmt.then_case if condition.text == "1" else stmt.else_case
            if branch is not None:
                self._block("{", branch)
            return
        self._block(f"if ({self._read(condition)}) {{", stmt.then_case, "" if stmt.else_case is not None else "}")
        if stmt.else_case is not None:
            self._block("} else {", stmt.else_case)

    def _Return(self, stmt: Stmt) -> None:
        self._line(f"return {self._read(self.expressions.term(stmt.value))};")


def _length(buffer: Any) -> int:
    """Elements of a local buffer."""
    (size,) = buffer.shape
    if type(size).__name__ != "IntImm":
        raise Unprintable("a local buffer of unknown size")
    return int(size.value)


def _same_literal(x: Any, y: Any) -> bool:
    return type(x).__name__ == type(y).__name__ == "IntImm" and int(x.value) == int(y.value)
