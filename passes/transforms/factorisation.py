"""Two layers in the place of one: W ~ S D, with a basis D of few rows and coefficients S."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Module, Weight
from nomul.passes.base import Report
from nomul.passes.calibrate import Batch, Statistics
from nomul.passes.choice import Recipe
from nomul.passes.transforms.base import Request, Transform


class Factorisation(Transform):
    """The weight keeps its name for the coefficients [N, R]; the basis [R, K] is @NAME.basis, a layer of its own with
    the place of the first one, which rules may name. What the model computes changes; `max_error` bounds it."""

    exact = False

    def __init__(self, recipe: Recipe | None = None, batches: Sequence[Batch] = ()) -> None:
        super().__init__(recipe, batches)
        self.bound = self.recipe.max_error

    def rank(self, request: Request) -> int:
        """R, the rows of the basis."""
        raise NotImplementedError

    def factors(self, request: Request, rank: int, seen: Statistics | None) -> tuple[np.ndarray, np.ndarray]:
        """S [N, R] and D [R, K]."""
        raise NotImplementedError

    def size(self, request: Request, rank: int) -> float:
        """How many numbers the factors hold."""
        rows, columns = request.matrix.shape
        return rank * (rows + columns)

    def refusal(self, request: Request) -> str | None:
        rank, whole = self.rank(request), prod(request.matrix.shape)
        if rank < 1:
            return "it is too small"
        if self.size(request, rank) >= whole:
            return f"a basis of {rank} rows and coefficients are no smaller than {whole} weights"
        return None

    def apply(self, module: Module, requests: Sequence[Request], report: Report) -> dict[str, str]:
        seen = self.statistics(module, requests)
        for request in requests:
            rank = self.rank(request)
            coefficients, basis = self.factors(request, rank, seen.get(request.weight.name))
            _replace(module, request, coefficients.astype(np.float32), basis.astype(np.float32))
            report.fire(f"basis of {rank}")
        return {}


def _replace(module: Module, request: Request, coefficients: np.ndarray, basis: np.ndarray) -> None:
    node, weight = request.node, request.weight
    shape = tuple(int(size) for size in weight.shape)
    first = Weight.dense(f"{weight.name}.basis", basis.reshape(-1, *shape[1:]))
    second = Weight.dense(weight.name, coefficients.reshape(*coefficients.shape, *(1 for _ in shape[2:])))
    build = Builder(module.main, before=node, loc=node.loc)
    name, old = node.result.name, node.result
    hidden = build.op(node.op, node.args[0], module.add_weight(first), name=f"{name}.basis", **node.attrs)
    attrs = {"layout": node.attrs["layout"]} if node.op == "nn.conv2d" else {}
    bias = node.operand(2)
    made = build.op(node.op, hidden, second, bias, **attrs)
    module.main.replace_all(old, made)
    module.main.erase(node)
    module.main.rename(made, name)
    module.weights[weight.name] = second
