"""Builds small graphs for tests of passes and rules, and applies one pass with everything checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Constant, Func, Module, Value, Weight
from nomul.ir.types import DType, Tensor
from nomul.ir.verifier import verify
from nomul.passes.base import Miss, Pass
from nomul.passes.catalog import make_pass
from nomul.passes.rule import Rewriter, Rule
from nomul.passes.runner import Fixpoint, PassRunner, Phase

DIMS = {"B": (1, 3), "S": (1, 9), "T": (1, 9)}


class Graph:
    """A module under construction: `g.input("x", "S", 8)`, `g.weight("w", 8, 4)`, `g.b.ew.add(...)`, `g.module(y)`."""

    def __init__(self, dims: Mapping[str, tuple[int, int]] | None = None, seed: int = 0) -> None:
        self._module = Module(dims=dict(DIMS if dims is None else dims))
        self._func = self._module.add_func(Func("main"))
        self.b = Builder(self._func, loc="layer")
        self._random = np.random.default_rng(seed)

    def input(self, name: str, *shape: int | str, dtype: str = "f32") -> Value:
        value = Value(name, Tensor.of(dtype, *shape))
        self._func.params.append(value)
        self._func._names[name] = value
        return value

    def weight(self, name: str, *shape: int, dtype: str = "f32") -> Weight:
        array = self._random.standard_normal(shape).astype(dtype if dtype != "f32" else np.float32)
        return self.array(name, array)

    def array(self, name: str, array: Any) -> Weight:
        return self._module.add_weight(Weight.dense(name, np.asarray(array)))

    def module(self, *returns: Value) -> Module:
        self._func.returns = list(returns)
        used = {name for value in self._func.values() for size in value.shape for name in size.names()}
        self._module.dims = {name: span for name, span in self._module.dims.items() if name in used}
        verify(self._module)
        return self._module


@dataclass
class Outcome:
    module: Module
    misses: list[Miss]
    fired: Counter[str]

    @property
    def ops(self) -> list[str]:
        """The ops of @main in order."""
        return [node.op for node in self.module.main.nodes]

    @property
    def result(self) -> Any:
        """The node that makes the first output."""
        return self.module.main.returns[0].producer

    def reasons(self, rule: str) -> list[str]:
        return [miss.reason for miss in self.misses if miss.rule == rule]


def apply(module: Module, *names: str | Pass, check: bool = True) -> Outcome:
    """The passes to a fixpoint (with clean-up between them), each verified and compared with the interpreter."""
    wanted = [make_pass(name) if isinstance(name, str) else name for name in names]
    clean = [make_pass(name) for name in ("fold_constants", "common_subexpressions", "dead_code")]
    runner = PassRunner(check=check)
    module = module.clone()
    module.after = ""  # it may come from these passes, or from other phases
    result = runner.run(module, [Phase("test", (Fixpoint((*wanted, *clean)),))])
    result.after = ""
    fired: Counter[str] = Counter()
    for record in runner.records:
        fired.update(record.report.fired)
    return Outcome(result, runner.misses, fired)


def reasons(rule: Rule, module: Module) -> list[str]:
    """Why one rule refuses the node that makes the module's first output."""
    node = module.main.returns[0].producer
    assert node is not None
    misses: list[Miss] = []
    assert rule.attempt(Rewriter(module, module.main, node), node, misses) is None
    return [miss.reason for miss in misses]


def built(make: Callable[[Graph], Value | tuple[Value, ...]], seed: int = 0) -> Module:
    """The module of a function that draws a graph and gives its results."""
    graph = Graph(seed=seed)
    made = make(graph)
    return graph.module(*(made if isinstance(made, tuple) else (made,)))


def simplified(make):  # type: ignore[no-untyped-def]
    return apply(built(make), "simplify")


def constant(node, position: int = 1) -> float:  # type: ignore[no-untyped-def]
    value = node.args[position]
    assert isinstance(value, Constant)
    return value.value


def index(value: int) -> Constant:
    return Constant(value, DType.I64)
