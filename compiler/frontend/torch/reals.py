"""Real numbers that depend on dynamic sizes: scalars that the model computes when it runs."""

from __future__ import annotations

from typing import Any

import torch

from nomul.frontend.common import UNSUPPORTED_FORM
from nomul.frontend.torch.errors import Unsupported
from nomul.frontend.torch.lowering import Lowering
from nomul.ir.graph import Value
from nomul.ir.types import DType

_SAME = ("ToFloat", "Identity")
_OPS = {  # by the name of the class in sympy, or in torch's own functions
    "FloatTrueDiv": "ew.div", "IntTrueDiv": "ew.div", "Add": "ew.add", "Mul": "ew.mul",
    "Pow": "ew.pow", "FloatPow": "ew.pow", "PowByNatural": "ew.pow", "OpaqueUnaryFn_sqrt": "ew.sqrt",
}  # fmt: skip


def real(g: Lowering, number: torch.SymFloat) -> float | Value:
    """A torch.SymFloat: a number where no size moves it, else a scalar f32. Raises Unsupported."""
    try:
        return g.symbols.number(number)
    except Unsupported:
        return _scalar(g, number.node.expr)


def refuse_reals(g: Lowering, target: Any, args: Any) -> None:
    """Raises Unsupported where an operator takes a number that is computed when the model runs."""
    for argument, given in zip(target._schema.arguments, args, strict=False):
        if isinstance(given, Value) and str(argument.type) not in ("Tensor", "Optional[Tensor]"):
            raise g.unsupported(f"the number '{argument.name}' depends on a dynamic size")


def _scalar(g: Lowering, expression: Any) -> Value:
    name = type(expression).__name__
    if expression.is_number:
        return g.value(float(expression), DType.F32)
    if expression.is_Symbol:
        return g.value(g.symbols.integer(expression), DType.F32)
    if name in _SAME:
        return _scalar(g, expression.args[0])
    if name not in _OPS:
        raise Unsupported(UNSUPPORTED_FORM, f"the number {expression} uses {name}, which is not supported")
    first, *rest = (_scalar(g, arg) for arg in expression.args)
    total = g.b.op(_OPS[name], first, *rest[:1])
    for part in rest[1:]:
        total = g.b.op(_OPS[name], total, part)
    return total
