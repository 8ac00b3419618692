"""Random inputs that a model accepts: sizes within the dims' ranges, indices within their tables, masks of 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from nomul.ir.dim import Range
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.interpreter import type_shape
from nomul.ir.types import DType, Tensor

LARGEST_DEFAULT = 128  # size of a dim that has no range, or a larger one, where the user names none
_SAME_NUMBERS = ("ew.cast", "view.", "call", "exec.view")  # ops behind which an index is still that index
_TABLE_READS = {"index.gather": 1, "index.gather_elements": 1}


@dataclass(frozen=True)
class InputSpec:
    """One input. low, high: inclusive bounds of integer values."""

    name: str
    type: Tensor
    low: int = 0
    high: int = 1


def input_specs(module: Module) -> list[InputSpec]:
    """The inputs of @main. An integer that selects rows of a table is bounded by the table, another one is 0 or 1."""
    specs = []
    for param in module.main.params:
        sizes = _table_sizes(module, param, set()) if param.dtype.is_integer else []
        specs.append(InputSpec(param.name, param.type, 0, min(sizes, default=2) - 1))
    return specs


def _table_sizes(module: Module, value: Value, seen: set[Value]) -> list[int]:
    """Sizes of the tables that `value` indexes, directly or through ops that keep its numbers."""
    found: list[int] = []
    if value in seen:
        return found
    seen.add(value)
    for node, position in value.users:
        if _TABLE_READS.get(node.op) == position:
            table = node.args[0]
            assert table is not None
            size = table.shape[node.attrs["axis"]].bounds(module.dims)[0]
            found += [max(int(size), 1)] if size != inf else []
        elif node.op in ("call", "exec.run"):
            found += _table_sizes(module, module.funcs[node.attrs["func"]].params[position], seen)
        elif node.op.startswith(_SAME_NUMBERS):
            found += _table_sizes(module, node.results[0], seen)
    return found


def sample_inputs(specs: Sequence[InputSpec], dims: Mapping[str, int], seed: int = 0) -> list[np.ndarray]:
    """One array per input. Floats are normal with unit variance; equal arguments give equal arrays."""
    generator = np.random.default_rng(seed)
    return [_sample(spec, type_shape(spec.type, dims), generator) for spec in specs]


def _sample(spec: InputSpec, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    dtype = spec.type.dtype
    if dtype is DType.BOOL:
        return generator.random(shape) < 0.8
    if dtype.is_integer:
        values = generator.integers(spec.low, spec.high, shape, endpoint=True)
        if (spec.low, spec.high) == (0, 1) and values.ndim:  # mostly ones, and never an empty mask
            values = np.maximum(values, generator.integers(0, 1, shape, endpoint=True))
            values[..., :1] = 1
        return values.astype(dtype.numpy)
    return generator.standard_normal(shape, dtype=np.float32).astype(dtype.numpy)


def pick_dims(ranges: Mapping[str, Range], given: Mapping[str, int]) -> dict[str, int]:
    """A value for every dim: the given one, else the largest allowed up to 128 (1 for a batch).

    Raises NomulError (NM006 unknown dim, NM010 outside the range)."""
    for name, value in given.items():
        if name not in ranges:
            raise NomulError("NM006", f"the model has no dim {name}", help=f"its dims: {', '.join(ranges) or 'none'}")
        low, high = ranges[name]
        if not low <= value <= high:
            raise NomulError("NM010", f"dim {name} = {value} is outside its range {low}:{high}")
    return {name: given.get(name, _default(name, low, high)) for name, (low, high) in ranges.items()}


def _default(name: str, low: float, high: float) -> int:
    wanted = 1 if "batch" in name.lower() or name in ("B", "N") else LARGEST_DEFAULT
    return int(max(low, min(high, wanted)))


def spread_dims(ranges: Mapping[str, Range], given: Mapping[str, int], count: int, seed: int = 0) -> list[dict[str, int]]:
    """`count` assignments within the ranges: the default one, the smallest, then random ones up to twice the default."""
    default = pick_dims(ranges, given)
    free = {name: _ends(ranges[name], default[name]) for name in ranges if name not in given}
    if not free:
        return [default]
    generator = np.random.default_rng(seed)
    cases = [default, default | {name: low for name, (low, _) in free.items()}]
    while len(cases) < count:
        drawn = {name: int(generator.integers(low, high, endpoint=True)) for name, (low, high) in free.items()}
        cases.append(default | drawn)
    return [dict(case) for case in dict.fromkeys(tuple(case.items()) for case in cases[:count])]


def _ends(bounds: Range, default: int) -> tuple[int, int]:
    low, high = bounds
    return max(low, 1), int(min(high, 2 * default))

