"""Records a run for `nomul-run --selftest` in a bundle: small random inputs, and the interpreter's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

import numpy as np

from nomul.backends.recording import Recording, tolerance_of
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.ir.interpreter import type_shape
from nomul.sample import InputSpec, input_specs, module_fits, pick_dims, sample_inputs

Arrays = Sequence[np.ndarray]
SMALL = 8  # the largest size that a free dim should have: quick on the interpreter, small in the bundle
MOST_ELEMENTS = 1 << 14  # of the inputs together, where the ranges allow so few


def record(source: Module, definition: Module) -> Recording:
    """What `nomul-run` should know of the model.

    source: as imported, for the bounds of integers; definition: the module that says what is right, at any level.
    Some models accept only sizes that are large enough: the first of a few sizes counts that the interpreter takes;
    where it takes none, there is no recorded run."""
    specs = input_specs(source)
    facts = Recording(pick_dims(source.dims, {}, module_fits(source)), [(spec.low, spec.high) for spec in specs])
    for dims in _sizes(source, specs):
        found = _run(definition, specs, dims)
        if found is not None:
            inputs, outputs = found
            return Recording(facts.dims, facts.bounds, inputs, outputs, tolerance_of(outputs))
    return facts


def _sizes(source: Module, specs: list[InputSpec]) -> Iterator[dict[str, int]]:
    def is_small(dims: Mapping[str, int]) -> bool:
        return sum(prod(type_shape(spec.type, dims)) for spec in specs) <= MOST_ELEMENTS

    ranges = {name: (low, max(low, min(high, SMALL))) for name, (low, high) in source.dims.items()}
    yield pick_dims(ranges, {}, is_small)
    if source.dims:
        yield pick_dims(source.dims, {}, module_fits(source))


def _run(definition: Module, specs: list[InputSpec], dims: Mapping[str, int]) -> tuple[Arrays, Arrays] | None:
    inputs = sample_inputs(specs, dims)
    try:
        return inputs, interpreter.run(definition, *inputs)
    except (AssertionError, ValueError, IndexError):  # as numpy says that sizes do not fit together
        return None
