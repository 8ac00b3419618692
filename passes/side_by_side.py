"""Runs a module and its encoded twin on the same batches, node by node: what each makes of the inputs can be compared
while the twin is still changed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np

from nomul.ir.graph import Module, Value
from nomul.ir.interpreter import bind_dims, evaluate_node, read_value
from nomul.passes.calibrate import Batch


class Run:
    """One module on one batch. values: those that are there and still needed, outputs of the module for good."""

    def __init__(self, module: Module, batch: Batch) -> None:
        params = module.main.params
        self.dims: Mapping[str, int] = bind_dims(module, [param.type for param in params], batch)
        self.values: dict[Value, np.ndarray] = dict(zip(params, batch, strict=True))
        self._nodes = module.main.nodes
        self._ends = _last_uses(module)
        self.at = 0  # number of the node that comes next

    def step(self) -> None:
        """The next node. Values that no later one reads are there until `forget`."""
        node = self._nodes[self.at]
        operands = [None if arg is None else read_value(arg, self.values) for arg in node.args]
        self.values.update(zip(node.results, evaluate_node(node, operands, self.dims), strict=True))
        self.at += 1

    def forget(self) -> None:
        """Drop what only the last step read or made."""
        for value in self._ends.get(self.at - 1, ()):
            self.values.pop(value, None)

    def advance(self, stop: int) -> None:
        """All nodes before the one of this number."""
        while self.at < stop:
            self.step()
            self.forget()

    def ahead(self, stop: int) -> dict[Value, np.ndarray]:
        """All values that are there before the node of this number, none forgotten on the way; the run stays here."""
        trial = copy(self)
        trial.values = dict(self.values)
        while trial.at < stop:
            trial.step()
        return trial.values


def _last_uses(module: Module) -> dict[int, list[Value]]:
    """By number of a node, the values that no later one reads and that are no outputs."""
    last: dict[Value, int] = {}
    for at, node in enumerate(module.main.nodes):
        last.update(dict.fromkeys((*node.results, *(arg for arg in node.args if arg is not None)), at))
    ends: dict[int, list[Value]] = {}
    for value in last.keys() - set(module.main.returns):
        ends.setdefault(last[value], []).append(value)
    return ends
