"""Removes nodes, weights, private functions and dims that nothing needs."""

from __future__ import annotations

from collections.abc import Iterable

from nomul.ir.dim import Dim
from nomul.ir.graph import Func, Module, Node
from nomul.passes.base import Pass, Report


class DeadCode(Pass):
    """Every op is pure, so a node without users goes; then weights, functions and dims without any."""

    name = "dead_code"

    def run(self, module: Module, report: Report) -> None:
        for func in module.funcs.values():
            erase_dead(func, reversed(list(func.nodes)))
        _drop_functions(module)
        returned = {value for func in module.funcs.values() for value in func.returns}
        for weight in list(module.weights.values()):
            if not weight.users and weight not in returned:
                module.remove_weight(weight)
        used = used_dims(module)
        for name in [name for name in module.dims if name not in used]:
            del module.dims[name]


def erase_dead(func: Func, candidates: Iterable[Node]) -> None:
    """Erase those of the candidates that nobody uses, and whatever only they used."""
    returned = set(func.returns)
    stack = list(candidates)[::-1]
    erased: set[Node] = set()
    while stack:
        node = stack.pop()
        if node in erased or any(result.users or result in returned for result in node.results):
            continue
        stack += [arg.producer for arg in node.args if arg is not None and arg.producer is not None]
        func.erase(node)
        erased.add(node)


def _drop_functions(module: Module) -> None:
    reached, todo = {"main"}, ["main"]
    while todo:
        callees = {node.attrs["func"] for node in module.funcs[todo.pop()].nodes if "func" in node.attrs} - reached
        reached |= callees
        todo += callees
    for name in [name for name in module.funcs if name not in reached]:
        func = module.funcs.pop(name)
        for node in reversed(func.nodes):
            func.set_args(node, ())


def used_dims(module: Module) -> set[str]:
    """Names of all dims in types and attributes of the module."""
    names: set[str] = set()
    for func in module.funcs.values():
        for value in func.values():
            names.update(*(size.names() for size in value.shape))
        for node in func.nodes:
            names.update(*(attr_dims(value) for value in node.attrs.values()))
    return names


def attr_dims(value: object) -> frozenset[str]:
    """Names of the dims in an attribute."""
    if isinstance(value, Dim):
        return value.names()
    return frozenset().union(*(attr_dims(item) for item in value)) if isinstance(value, tuple) else frozenset()
