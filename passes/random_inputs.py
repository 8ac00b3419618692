"""Random inputs for a module: shapes within the ranges of its dims, index inputs within what they index."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf

import numpy as np

from nomul.ir.dim import Dim
from nomul.ir.graph import Module, Value
from nomul.ir.interpreter import type_shape
from nomul.ir.types import DType, Tensor

_LARGEST_DRAWN = 5  # dims are drawn near their lower bound, so that the interpreter stays quick


def random_dims(module: Module, generator: np.random.Generator) -> dict[str, int]:
    """A value for each named dim, inside its range."""
    values = {}
    for name, (low, high) in module.dims.items():
        top = low + _LARGEST_DRAWN if isinf(high) else min(int(high), low + _LARGEST_DRAWN)
        values[name] = int(generator.integers(low, top + 1))
    return values


def random_inputs(module: Module, dims: Mapping[str, int], generator: np.random.Generator) -> list[np.ndarray]:
    """One array for each parameter of @main.

    Floats are normal; integers that index something stay below its size; other integers and bools are masks as a rule:
    0 or 1, with a 1 in front."""
    return [_random_array(param.type, index_limit(param, dims), dims, generator) for param in module.main.params]


def _random_array(
    type: Tensor, limit: int | None, dims: Mapping[str, int], generator: np.random.Generator
) -> np.ndarray:
    shape = type_shape(type, dims)
    if type.dtype.is_float:
        return generator.standard_normal(shape).astype(type.dtype.numpy)
    if limit is not None:
        return generator.integers(0, max(limit, 1), shape).astype(type.dtype.numpy)
    array = (generator.random(shape) < 0.75).astype(type.dtype.numpy)
    if array.ndim and array.size:
        array[..., 0] = 1
    return array


def index_limit(value: Value, dims: Mapping[str, int]) -> int | None:
    """The size of the axis that an integer value indexes, directly or through views and casts; None for other uses."""
    if not value.dtype.is_integer:
        return None
    limits: list[int | None] = []
    for node, position in value.users:
        if node.op.startswith("index.") and position == 1 and node.args[0] is not None:
            table = node.args[0].type.shape
            limits.append(_indexed_axis(node.attrs.get("axis", 0), table).evaluate(dims))
        elif node.op.startswith("view.") or (node.op == "ew.cast" and node.result.dtype is not DType.BOOL):
            limits.append(index_limit(node.results[0], dims))
    found = [limit for limit in limits if limit is not None]
    return min(found) if found else None


def _indexed_axis(axis: int, table: tuple[Dim, ...]) -> Dim:
    return table[axis] if axis < len(table) else Dim.of(1)
