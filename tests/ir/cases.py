"""A case of an op: operands, attributes, and what another implementation gives for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nomul.ir.builder import Builder
from nomul.ir.graph import Func, Module, Value
from nomul.ir.interpreter import run
from nomul.ir.types import DType, Tensor
from nomul.ir.verifier import verify


@dataclass(frozen=True)
class Case:
    """expected: results of the other implementation (arrays), or a function of the operands that gives them."""

    op: str
    operands: Sequence[np.ndarray | None]
    expected: Any
    attrs: dict[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-6

    def __str__(self) -> str:
        attrs = ",".join(f"{name}={value}" for name, value in self.attrs.items())
        return f"{self.op}({attrs})" if attrs else self.op

    def results(self) -> list[np.ndarray]:
        """What the other implementation says."""
        found = self.expected(*self.operands) if callable(self.expected) else self.expected
        found = found if isinstance(found, tuple | list) else [found]
        return [np.asarray(getattr(one, "numpy", lambda one=one: one)()) for one in found]


def module_of(case: Case) -> Module:
    """A module with the one node; all operands are parameters."""
    params = [
        Value(f"x{i}", Tensor.of(DType.from_numpy(array.dtype), *array.shape)) if array is not None else None
        for i, array in enumerate(case.operands)
    ]
    module = Module()
    func = module.add_func(Func("main", [param for param in params if param is not None]))
    func.returns = Builder(func).node(case.op, *params, **case.attrs).results
    return module


def evaluate(case: Case) -> tuple[np.ndarray, ...]:
    """The op's own results, through verifier and interpreter."""
    module = module_of(case)
    verify(module)
    return run(module, *[array for array in case.operands if array is not None])


def numbers(*shape: int, low: float = -2.0, high: float = 2.0, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    """Random numbers; integers for an integer dtype."""
    random = np.random.default_rng(seed + sum(shape) + len(shape))
    if np.issubdtype(dtype, np.integer):
        return random.integers(int(low), int(high), shape).astype(dtype)
    return random.uniform(low, high, shape).astype(dtype)


def each(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A function of numbers applied to each element, in double precision; the result has the first operand's dtype."""

    def apply(*arrays: np.ndarray) -> np.ndarray:
        wide = [a.astype(np.float64) if np.issubdtype(a.dtype, np.floating) else a.astype(object) for a in arrays]
        result = np.vectorize(function, otypes=[object])(*wide)
        first = result.flat[0]
        return result.astype(np.bool_ if isinstance(first, bool | np.bool_) else arrays[-1].dtype)

    return apply
