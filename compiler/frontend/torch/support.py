"""Which operators of an exported program can be lowered, by themselves or after torch has decomposed them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nomul.frontend.common import UNSUPPORTED_OP
from nomul.frontend.torch.complex import takes_complex
from nomul.frontend.torch.errors import problem
from nomul.frontend.torch.registry import further_decompositions, handler_of, names_of
from nomul.ir.errors import Problem

SIZES = torch.SymInt | torch.SymFloat | torch.SymBool
_CHECKS = ("_assert", "sym_constrain_range", "_print")
_INLINED = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint")


def is_check(target: Any) -> bool:
    """Whether an operator only checks something while torch runs."""
    return names_of(target)[1].startswith(_CHECKS)


def is_inlined(target: torch._ops.HigherOrderOperator) -> bool:
    """Whether an operator on graphs only wraps one."""
    return target.name() in _INLINED


def short_name(target: Any) -> str:
    """`linear` for torch.ops.aten.linear.default."""
    return target._schema.name.split("::")[1] if isinstance(target, torch._ops.OpOverload) else target.__name__


def _calls(program: torch.export.ExportedProgram) -> Iterator[torch.fx.Node]:
    """The operator nodes of the program and of the graphs inside it."""
    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            yield from (node for node in graph_module.graph.nodes if node.op == "call_function")


def is_plain(program: torch.export.ExportedProgram) -> bool:
    """Whether every operator has a lowering and writes nothing in place: such a program needs no decomposition."""
    return all(
        _is_known(node, lambda target: False)
        and not isinstance(node.target, torch._ops.HigherOrderOperator)
        and not getattr(getattr(node.target, "_schema", None), "is_mutable", False)
        for node in _calls(program)
    )


def undecomposable_ops(program: torch.export.ExportedProgram) -> list[Problem]:
    """Operators that have neither a lowering nor a decomposition."""
    table = {*torch.export.default_decompositions(), *further_decompositions()}
    return unsupported_ops(program, lambda target: _decomposes(target, table))


def _decomposes(target: Any, table: Any) -> bool:
    """Whether torch can express an operator without lowering by others. One that writes in place has a pure twin."""
    if target in table or target.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd):
        return True
    name = names_of(target)[1]
    if not (target._schema.is_mutable and target.namespace == "aten" and name.endswith("_")):
        return False
    twin = getattr(torch.ops.aten, name[:-1], None)
    overloads = [] if twin is None else [getattr(twin, overload) for overload in twin.overloads()]
    return any(handler_of(overload) is not None or overload in table for overload in overloads)


def unsupported_ops(
    program: torch.export.ExportedProgram, accept: Callable[[Any], bool] = lambda target: False
) -> list[Problem]:
    """One problem for each operator without a lowering: how often, first where. accept: OpOverloads to let pass."""
    first: dict[str, torch.fx.Node] = {}
    counts: Counter[str] = Counter()
    for node in _calls(program):
        if not _is_known(node, accept):
            name = str(node.target)
            counts[name] += 1
            first.setdefault(name, node)
    return [_unknown_op(name, node, counts[name]) for name, node in first.items()]


def _is_known(node: torch.fx.Node, accept: Callable[[Any], bool]) -> bool:
    target = node.target
    if isinstance(node.meta.get("val"), SIZES | int | float) or target is operator.getitem:
        return True
    if isinstance(target, torch._ops.HigherOrderOperator):
        return is_inlined(target)
    if not isinstance(target, torch._ops.OpOverload):
        return False
    known = takes_complex(target) if _reads_complex(node) else handler_of(target) is not None
    return is_check(target) or known or accept(target)


def _reads_complex(node: torch.fx.Node) -> bool:
    values = [arg.meta.get("val") for arg in node.all_input_nodes]
    is_tensor = any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)
    return is_tensor or any(isinstance(arg, complex) for arg in node.args)


def _unknown_op(name: str, node: torch.fx.Node, count: int) -> Problem:
    times = "once" if count == 1 else f"{count} times"
    help = "see docs/torch.md for the operators that have one"
    return problem(node, short_name(node.target), UNSUPPORTED_OP, f"no lowering for {name}, used {times}", help)
