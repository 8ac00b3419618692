"""Random inputs that a model accepts: sizes within the dims' ranges, indices within their tables, masks of 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from nomul.ir.dim import Range
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module
from nomul.ir.interpreter import type_shape
from nomul.ir.syntax import WeightLine, parse_line
from nomul.ir.types import DType, Tensor
from nomul.memory import scratch_bytes
from nomul.passes.random_inputs import index_limit
from nomul.runtime.loader import Artifact

LARGEST_BATCH = 67  # of `many_rows`
LARGEST_DEFAULT = 128  # size of a dim that has no range, or a larger one, where the user names none
MOST_INPUT_ELEMENTS = 1 << 20  # of one input whose sizes nobody named
MOST_VALUE_ELEMENTS = 1 << 24  # of one value inside
MOST_SCRATCH_BYTES = 1 << 28

Fits = Callable[[Mapping[str, int]], bool]


@dataclass(frozen=True)
class InputSpec:
    """One input. low, high: inclusive bounds of integer values."""

    name: str
    type: Tensor
    low: int = 0
    high: int = 1


def input_specs(module: Module) -> list[InputSpec]:
    """The inputs of @main. An integer that selects rows of a table is bounded by the table, another one is 0 or 1."""
    smallest = {name: int(low) for name, (low, _) in module.dims.items()}
    specs = []
    for param in module.main.params:
        limit = index_limit(param, smallest)
        specs.append(InputSpec(param.name, param.type, 0, 1 if limit is None else max(limit, 1) - 1))
    return specs


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


def module_fits(module: Module) -> Fits:
    """Whether sizes are of a modest amount of work: no input and no value of @main is very large."""
    inputs = [param.type for param in module.main.params]
    values = [value.type for value in module.main.values()]
    return lambda dims: _below(inputs, dims, MOST_INPUT_ELEMENTS) and _below(values, dims, MOST_VALUE_ELEMENTS)


def artifact_fits(artifact: Artifact, share: int = 1) -> Fits:
    """The same for an artifact: no input is very large, nor is the arena. share: limits are divided by it."""
    inputs = [spec.type for spec in artifact_specs(artifact)]

    def fits(dims: Mapping[str, int]) -> bool:
        small = _below(inputs, dims, MOST_INPUT_ELEMENTS // share)
        return small and artifact.scratch_bytes(dict(dims)) <= MOST_SCRATCH_BYTES // share

    return fits


def facts_fit(facts: Mapping[str, Any]) -> Fits:
    """The same for an artifact that is for another machine."""
    inputs = [spec.type for spec in fact_specs(facts["inputs"])]
    return lambda dims: (
        _below(inputs, dims, MOST_INPUT_ELEMENTS) and scratch_bytes(facts, dims) <= MOST_SCRATCH_BYTES
    )


def _below(types: Iterable[Tensor], dims: Mapping[str, int], limit: int) -> bool:
    return all(prod(type_shape(type, dims)) <= limit for type in types)


def pick_dims(ranges: Mapping[str, Range], given: Mapping[str, int], fits: Fits | None = None) -> dict[str, int]:
    """A value for every dim: the given one, else the largest allowed up to 128 (1 for a batch), or one that `fits`.

    Raises NomulError (NM206 unknown dim, NM010 outside the range)."""
    for name, value in given.items():
        if name not in ranges:
            raise NomulError("NM206", f"the model has no dim {name}", help=f"its dims: {', '.join(ranges) or 'none'}")
        low, high = ranges[name]
        if not low <= value <= high:
            raise NomulError("NM010", f"dim {name} = {value} is outside its range {low}:{high}")
    wanted = {name: given.get(name, _default(name, low, high)) for name, (low, high) in ranges.items()}
    return _shrunk(wanted, ranges, given, fits)


def _shrunk(
    dims: Mapping[str, int], ranges: Mapping[str, Range], given: Mapping[str, int], fits: Fits | None
) -> dict[str, int]:
    """The largest dim that is not given is halved until the sizes fit, or all are at their lowest."""
    dims = dict(dims)
    while fits is not None and not fits(dims):
        free = [name for name, size in dims.items() if name not in given and size > _lowest(ranges[name])]
        if not free:
            break
        name = max(free, key=lambda name: dims[name])
        dims[name] = max(_lowest(ranges[name]), dims[name] // 2)
    return dims


def _lowest(bounds: Range) -> int:
    return max(int(bounds[0]), 1)


def _default(name: str, low: float, high: float) -> int:
    return int(max(low, min(high, 1 if _is_batch(name) else LARGEST_DEFAULT)))


def _is_batch(name: str) -> bool:
    return "batch" in name.lower() or name in ("B", "N")


def spread_dims(
    ranges: Mapping[str, Range], given: Mapping[str, int], count: int, seed: int = 0, fits: Fits | None = None
) -> list[dict[str, int]]:
    """Up to `count` assignments: the default one, the smallest, then random ones up to twice the default that fit."""
    default = pick_dims(ranges, given, fits)
    free = {name: _ends(ranges[name], default[name]) for name in ranges if name not in given}
    if not free:
        return [default]
    generator = np.random.default_rng(seed)
    cases = [default, default | {name: low for name, (low, _) in free.items()}]
    while len(cases) < count:
        drawn = {name: int(generator.integers(low, high, endpoint=True)) for name, (low, high) in free.items()}
        cases.append(_shrunk(default | drawn, ranges, given, fits))
    return [dict(case) for case in dict.fromkeys(tuple(case.items()) for case in cases[:count])]


def many_rows(ranges: Mapping[str, Range], given: Mapping[str, int], fits: Fits) -> dict[str, int] | None:
    """Sizes that take kernels of many rows at little cost: batches that nobody named are large, up to 67, which no tile
    divides, as far as that `fits`; other sizes are the smallest. None where there is no such batch."""
    batches = [name for name in ranges if _is_batch(name) and name not in given]
    if not batches:
        return None
    wanted = dict.fromkeys(ranges, 1) | dict.fromkeys(batches, LARGEST_BATCH) | dict(given)
    sizes = {name: int(max(low, min(high, wanted[name]))) for name, (low, high) in ranges.items()}
    return _shrunk(sizes, ranges, given, fits)


def _ends(bounds: Range, default: int) -> tuple[int, int]:
    return _lowest(bounds), int(min(bounds[1], 2 * default))


def artifact_specs(artifact: Artifact) -> list[InputSpec]:
    """The inputs of a loaded artifact, with the bounds that the compiler noted."""
    noted = {fact["name"]: fact for fact in artifact.facts.get("inputs", [])}
    types = [{"name": port.name, "dtype": port.dtype, "shape": port.shape} for port in artifact.inputs]
    return fact_specs([noted.get(fact["name"], {}) | fact for fact in types])


def fact_dims(facts: Mapping[str, Any]) -> dict[str, Range]:
    """The ranges of an artifact's dims."""
    return {name: (low, inf if high is None else high) for name, (low, high) in facts["dims"].items()}


def fact_specs(facts: Iterable[Mapping[str, Any]]) -> list[InputSpec]:
    """The inputs of an artifact that is for another machine and cannot be loaded, from its facts."""
    return [_fact_spec(fact) for fact in facts]


def _fact_spec(fact: Mapping[str, Any]) -> InputSpec:
    line = parse_line(f"weight @port : {fact['dtype']}[{', '.join(map(str, fact['shape']))}]")
    assert isinstance(line, WeightLine)
    return InputSpec(fact["name"], line.type, fact.get("low", 0), fact.get("high", 1))
