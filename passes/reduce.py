"""Finds a small part of a module that still shows a fault: delta debugging over the nodes of @main, then its outputs.

The method is ddmin (Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", 2002) with complements
only. It is deterministic, but for the deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from nomul.ir.graph import Func, Module, Node, Value, Weight, clone_func
from nomul.passes.base import Report
from nomul.passes.dead_code import DeadCode

Fails = Callable[[Module], bool]


def reduce_module(module: Module, fails: Fails, seconds: float = float("inf")) -> Module:
    """The smallest part of the module found within the time that still fails; the module itself where no part does.

    What removed nodes computed becomes an input of @main. fails: must be true for the module itself."""
    search = _Search(module, fails, time.monotonic() + seconds)
    nodes = search.shrink(list(module.main.nodes))
    return search.fewer_outputs(nodes)


class _Search:
    """fails, until the deadline is over: then nothing more is removed."""

    def __init__(self, module: Module, fails: Fails, deadline: float) -> None:
        self.module = module
        self.deadline = deadline
        self._fails = fails

    def fails(self, candidate: Module | None) -> bool:
        return candidate is not None and time.monotonic() < self.deadline and self._fails(candidate)

    def shrink(self, nodes: list[Node]) -> list[Node]:
        """The nodes that are left when no stretch of any power of two of them can go."""
        size = max(len(nodes) // 2, 1)
        while True:
            kept = self._without_stretches(nodes, size)
            if size == 1 and len(kept) == len(nodes):
                return kept
            nodes, size = kept, max(size // 2, 1)

    def _without_stretches(self, nodes: list[Node], size: int) -> list[Node]:
        """From the back: what comes last is needed by nobody."""
        end = len(nodes)
        while end > 0:
            fewer = nodes[: max(end - size, 0)] + nodes[end:]
            if fewer and self.fails(part_of(self.module, fewer)):
                nodes = fewer
            end -= size
        return nodes

    def fewer_outputs(self, nodes: Sequence[Node]) -> Module:
        part = part_of(self.module, nodes)
        best = part if part is not None and self._fails(part) else self.module
        for position in reversed(range(len(best.main.returns))):
            fewer = _without_output(best, position)
            if fewer is not None and self.fails(fewer):
                best = fewer
        return best


def part_of(module: Module, nodes: Sequence[Node]) -> Module | None:
    """A module of some nodes of @main, in order. Operands from elsewhere become inputs, results that are used elsewhere
    outputs; None where there would be none."""
    inside = set(nodes)
    copy = Module(dict(module.dims), level=module.level, origin=module.origin, source=module.source)
    mapping: dict[Value, Value] = {}
    for weight in module.weights.values():
        mapping[weight] = copy.weights[weight.name] = Weight(weight.name, weight.type, weight.fields, weight.key)
    for func in module.funcs.values():
        if func is not module.main:
            copy.add_func(clone_func(func, mapping))
    inputs = _inputs(module.main, nodes, inside)
    main = Func("main", inputs)
    main.nodes = list(nodes)
    main.returns = [result for node in nodes for result in node.results if _is_output(module.main, result, inside)]
    if not main.returns:
        return None
    copy.add_func(clone_func(main, mapping))
    DeadCode().run(copy, Report())
    return copy


def _inputs(main: Func, nodes: Sequence[Node], inside: set[Node]) -> list[Value]:
    """Values from elsewhere: parameters in their order, then what removed nodes computed."""
    used = dict.fromkeys(arg for node in nodes for arg in node.args if arg is not None and main.lookup(arg.name) is arg)
    params = [param for param in main.params if param in used]
    return [*params, *(value for value in used if value.producer is not None and value.producer not in inside)]


def _is_output(main: Func, value: Value, inside: set[Node]) -> bool:
    inner = [user for user, _ in value.users if user in inside]
    return not inner or len(inner) < len(value.users) or any(value is returned for returned in main.returns)


def _without_output(module: Module, position: int) -> Module | None:
    if len(module.main.returns) == 1:
        return None
    copy = module.clone()
    del copy.main.returns[position]
    DeadCode().run(copy, Report())
    return copy
