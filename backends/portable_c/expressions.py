"""TIRx expressions as C. An int64 that fits in 32 bits is computed in 32 bits: indices on a microcontroller are cheap.

Signed arithmetic that may overflow is done in unsigned types, since C leaves signed overflow undefined. Only the chosen
operand of a Select is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from tvm.target import codegen

from nomul.backends.portable_c import intervals, terms
from nomul.backends.portable_c.intervals import Interval, full
from nomul.backends.portable_c.terms import (
    AND,
    ATOM,
    BITS,
    COMPARISON,
    CONDITIONAL,
    EQUALITY,
    OR,
    PRODUCT,
    SHIFT,
    SUM,
    UNARY,
    Term,
    Unprintable,
    cast,
    kind_of,
    truth,
)

Expr = Any  # a tvm PrimExpr; tvm has no type stubs


class Names(Protocol):
    """What the expressions need to know of the function around them."""

    def variable(self, variable: Any) -> Term: ...
    def element(self, buffer: Any, place: Callable[[], Term], dtype: str) -> Term: ...


_FLOATS = ("float", "double")
_SUFFIX = {"int32_t": "i32", "int64_t": "i64", "uint32_t": "u32", "uint64_t": "u64", "float": "f32", "double": "f64"}
_ARITHMETIC = {
    "Add": ("+", SUM, intervals.add),
    "Sub": ("-", SUM, intervals.subtract),
    "Mul": ("*", PRODUCT, intervals.multiply),
    "Div": ("/", PRODUCT, intervals.truncating_divide),
    "Mod": ("%", PRODUCT, intervals.truncating_remainder),
}
_FLOORED = {
    "FloorDiv": ("floor_div", intervals.floor_divide),
    "FloorMod": ("floor_mod", intervals.floor_remainder),
}
_COMPARISONS = {"LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==", "NE": "!="}
_BITWISE = {"BitwiseAnd": "&", "BitwiseOr": "|", "BitwiseXor": "^"}
_EXTREMES = {"Min": ("min", intervals.minimum), "Max": ("max", intervals.maximum)}
_MATH = {  # LLVM's intrinsics that math.h has under a name of its own
    "llvm.fabs": "fabs",
    "llvm.floor": "floor",
    "llvm.ceil": "ceil",
    "llvm.trunc": "trunc",
    "llvm.rint": "rint",
    "llvm.sqrt": "sqrt",
    "llvm.copysign": "copysign",
}


class Expressions:
    """Prints expressions over `names`. Raises Unprintable."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def term(self, e: Expr) -> Term:
        name = type(e).__name__
        if e.ty.dtype.lanes != 1:
            raise Unprintable(f"vectors ({name} of {e.ty.dtype})")
        for group, method in _GROUPS:
            if name in group:
                return method(self, e, name)
        raise Unprintable(f"expression {name}")

    # -- leaves ------------------------------------------------------------------------------------------------
    def _literal(self, e: Expr, name: str) -> Term:
        dtype = str(e.ty.dtype)
        if name == "FloatImm":
            return terms.real(float(e.value), dtype)
        return truth(bool(e.value)) if dtype == "bool" else terms.integer(int(e.value), dtype)

    def _variable(self, e: Expr, name: str) -> Term:
        return self._names.variable(e)

    def _load(self, e: Expr, name: str) -> Term:
        if len(e.indices) != 1:
            raise Unprintable(f"a buffer with {len(e.indices)} axes")
        return self._names.element(e.source, lambda: self.term(e.indices[0]), str(e.ty.dtype))

    # -- numbers -----------------------------------------------------------------------------------------------
    def _arithmetic(self, e: Expr, name: str) -> Term:
        sign, level, interval = _ARITHMETIC[name]
        x, y, dtype = self.term(e.a), self.term(e.b), str(e.ty.dtype)
        if x.kind in _FLOATS:
            if name == "Mod":
                raise Unprintable("the remainder of floats")
            return Term(f"{x.within(level)} {sign} {y.within(level - 1)}", level, x.kind)
        result = interval(x.integers, y.integers)
        if dtype in ("uint32", "uint64"):
            inside = result if result in full(dtype) else full(dtype)
            return Term(f"{x.within(level)} {sign} {y.within(level - 1)}", level, x.kind, inside)
        if name == "Mod" and x.integers.low >= 0 and x.integers.high < y.integers.low:
            return x
        if name in ("Div", "Mod") and result not in full(dtype):
            result = full(dtype)  # a quotient that overflows is ruled out by whoever divides
        return terms.signed(x, sign, y, level, result, dtype)

    def _floored(self, e: Expr, name: str) -> Term:
        function, interval = _FLOORED[name]
        x, y = self.term(e.a), self.term(e.b)
        if x.integers.low >= 0 and y.integers.low >= 0:
            return self._arithmetic(e, {"FloorDiv": "Div", "FloorMod": "Mod"}[name])
        return _called(f"nm_{function}", x, y, interval(x.integers, y.integers))

    def _extreme(self, e: Expr, name: str) -> Term:
        function, interval = _EXTREMES[name]
        x, y = self.term(e.a), self.term(e.b)
        return _called(f"nm_{function}", x, y, None if x.interval is None else interval(x.interval, y.integers))

    def _shift(self, e: Expr, name: str) -> Term:
        x, y, dtype = self.term(e.a), self.term(e.b), str(e.ty.dtype)
        if name == "RShift":
            by = intervals.shift_right(x.integers, y.integers)
            return Term(f"{x.within(UNARY)} >> {y.within(UNARY)}", SHIFT, x.kind, by)
        if x.kind in ("uint32_t", "uint64_t"):
            return Term(f"{x.within(UNARY)} << {y.within(UNARY)}", SHIFT, x.kind, full(dtype))
        return terms.wrapped(x, "<<", y, dtype)

    def _bitwise(self, e: Expr, name: str) -> Term:
        x, y, dtype = self.term(e.a), self.term(e.b), str(e.ty.dtype)
        inside = full(dtype)
        if name == "BitwiseAnd" and (x.integers.low >= 0 or y.integers.low >= 0):
            inside = intervals.bitwise_and(x.integers, y.integers)
        kind = "int64_t" if "int64_t" in (x.kind, y.kind) else x.kind
        return Term(f"{x.within(UNARY)} {_BITWISE[name]} {y.within(UNARY)}", BITS, kind, inside)

    def _cast(self, e: Expr, name: str) -> Term:
        x, dtype = self.term(e.value), str(e.ty.dtype)
        kind = kind_of(dtype)
        if dtype == "bool":
            if x.kind in _FLOATS:  # true for NaN
                return Term(f"{x.within(SUM)} != 0", EQUALITY, "int32_t", intervals.TRUTH)
            return _compared(x, "!=", truth(False))
        if kind in _FLOATS:
            return x if x.kind == kind else Term(f"({kind}){x.within(UNARY)}", UNARY, kind)
        if x.interval is not None and x.interval in full(dtype):
            fits = x.kind == kind or (kind == "int64_t" and x.kind == "int32_t")
            return x if fits else cast(x, kind)
        return Term(f"({terms.c_type(dtype)}){x.within(UNARY)}", UNARY, kind, full(dtype))

    # -- truth -------------------------------------------------------------------------------------------------
    def _comparison(self, e: Expr, name: str) -> Term:
        return _compared(self.term(e.a), _COMPARISONS[name], self.term(e.b))

    def _logic(self, e: Expr, name: str) -> Term:
        if name == "Not":
            return _negated(self.term(e.a))
        decisive = name == "Or"  # the truth value of an operand that settles it
        x = self.term(e.a)
        if x.text == str(int(decisive)):
            return x
        y = self.term(e.b)
        if x.text == str(int(not decisive)) or y.text == str(int(decisive)):
            return y
        if y.text == str(int(not decisive)):
            return x
        sign, level = ("||", OR) if decisive else ("&&", AND)
        left = x.text if x.level == level else x.within(EQUALITY)
        return Term(f"{left} {sign} {y.within(EQUALITY)}", level, "int32_t", intervals.TRUTH)

    def _select(self, e: Expr, name: str) -> Term:
        condition = self.term(e.condition)
        if condition.text in "01":
            return self.term(e.true_value if condition.text == "1" else e.false_value)
        x, y = self.term(e.true_value), self.term(e.false_value)
        text = f"{condition.within(OR)} ? {x.within(OR)} : {y.within(OR)}"
        kind = "int64_t" if "int64_t" in (x.kind, y.kind) else x.kind
        return Term(text, CONDITIONAL, kind, self._chosen(e.condition, x, y) if x.interval is not None else None)

    def _chosen(self, condition: Expr, x: Term, y: Term) -> Interval:
        """What `condition ? x : y` can be; less than both where it is their smaller or larger one."""
        sign = _COMPARISONS.get(type(condition).__name__, "")
        if sign in ("<", "<=", ">", ">="):
            compared = (self.term(condition.a).text, self.term(condition.b).text)
            if compared in ((x.text, y.text), (y.text, x.text)):
                smaller = (sign[0] == "<") == (compared == (x.text, y.text))
                return (intervals.minimum if smaller else intervals.maximum)(x.integers, y.integers)
        return x.integers.union(y.integers)

    # -- calls -------------------------------------------------------------------------------------------------
    def _call(self, e: Expr, name: str) -> Term:
        op = str(e.op.name).removeprefix("tirx.")
        if op == "call_llvm_pure_intrin":
            return self._intrinsic(codegen.llvm_get_intrinsic_name(int(e.args[0].value)), list(e.args[1:]))
        x, dtype = self.term(e.args[0]), str(e.ty.dtype)
        if op == "isnan":
            return _is_nan(x)
        if op == "reinterpret":
            kind = kind_of(dtype)
            inside = None if kind in _FLOATS else full(dtype)
            return Term(f"nm_{_SUFFIX[kind]}_of_{_SUFFIX[x.kind]}({x.text})", ATOM, kind, inside)
        raise Unprintable(f"call of {e.op.name}")

    def _intrinsic(self, name: str, args: list[Expr]) -> Term:
        found = [self.term(arg) for arg in args]
        kind = found[0].kind
        listed = ", ".join(arg.text for arg in found)
        if name == "llvm.fmuladd":
            return Term(f"nm_fma_{_SUFFIX[kind]}({listed})", ATOM, kind)
        if name not in _MATH:
            raise Unprintable(f"LLVM's intrinsic {name}")
        return Term(f"{_MATH[name]}{'f' if kind == 'float' else ''}({listed})", ATOM, kind)


def _called(function: str, x: Term, y: Term, interval: Interval | None) -> Term:
    kind = "int64_t" if "int64_t" in (x.kind, y.kind) else x.kind
    return Term(f"{function}_{_SUFFIX[kind]}({x.text}, {y.text})", ATOM, kind, interval)


def _compared(x: Term, sign: str, y: Term) -> Term:
    if x.text == y.text:
        return truth(False) if sign in ("<", ">", "!=") else _negated(_is_nan(x))
    if x.interval is not None and y.interval is not None:
        verdict = intervals.decide(sign, x.interval, y.interval)
        if verdict is not None:
            return truth(verdict)
    elif sign == "!=":  # as LLVM has it in TVM's code: false where an operand is NaN
        left, right = x.within(SUM), y.within(SUM)
        return Term(f"({left} < {right} || {left} > {right})", ATOM, "int32_t", intervals.TRUTH)
    level = EQUALITY if sign in ("==", "!=") else COMPARISON
    return Term(f"{x.within(SUM)} {sign} {y.within(SUM)}", level, "int32_t", intervals.TRUTH)


def _is_nan(x: Term) -> Term:
    if x.kind not in _FLOATS:
        return truth(False)
    return Term(f"isnan({x.text})", ATOM, "int32_t", intervals.TRUTH)


def _negated(x: Term) -> Term:
    if x.text in "01":
        return truth(x.text == "0")
    return Term(f"!{x.within(UNARY)}", UNARY, "int32_t", intervals.TRUTH)


_Method = Callable[[Expressions, Expr, str], Term]
_GROUPS: tuple[tuple[frozenset[str], _Method], ...] = (
    (frozenset({"IntImm", "FloatImm"}), Expressions._literal),
    (frozenset({"Var"}), Expressions._variable),
    (frozenset({"TensorLoad", "BufferLoad"}), Expressions._load),
    (frozenset(_ARITHMETIC), Expressions._arithmetic),
    (frozenset(_FLOORED), Expressions._floored),
    (frozenset(_EXTREMES), Expressions._extreme),
    (frozenset({"LShift", "RShift"}), Expressions._shift),
    (frozenset(_BITWISE), Expressions._bitwise),
    (frozenset({"Cast"}), Expressions._cast),
    (frozenset(_COMPARISONS), Expressions._comparison),
    (frozenset({"And", "Or", "Not"}), Expressions._logic),
    (frozenset({"Select"}), Expressions._select),
    (frozenset({"Call"}), Expressions._call),
)
