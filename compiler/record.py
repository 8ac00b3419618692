"""Records a run for `nomul-run --selftest` in a bundle: small random inputs, and the interpreter's results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nomul.backends.recording import Recording, tolerance_of
from nomul.ir import interpreter
from nomul.ir.graph import Module
from nomul.sample import InputSpec, input_specs, module_fits, pick_dims, sample_inputs

Arrays = Sequence[np.ndarray]
SMALL = 8  # the size that a free dim should have: quick on the interpreter, small in the bundle


def record(source: Module, definition: Module) -> Recording:
    """What `nomul-run` should know of the model.

    source: as imported, for the bounds of integers; definition: the module that says what is right, at any level.
    Some models accept only sizes that are large enough: the first of a few sizes counts that the interpreter takes;
    where it takes none, there is no recorded run."""
    specs = input_specs(source)
    facts = Recording(pick_dims(source.dims, {}, module_fits(source)), [(spec.low, spec.high) for spec in specs])
    for dims in _sizes(source):
        found = _run(definition, specs, dims)
        if found is not None:
            inputs, outputs = found
            return Recording(facts.dims, facts.bounds, inputs, outputs, tolerance_of(outputs))
    return facts


def _sizes(source: Module) -> Iterator[dict[str, int]]:
    usual = pick_dims(source.dims, {}, module_fits(source))
    yield {name: int(max(low, min(high, SMALL, usual[name]))) for name, (low, high) in source.dims.items()}
    if source.dims:
        yield usual


def _run(definition: Module, specs: list[InputSpec], dims: Mapping[str, int]) -> tuple[Arrays, Arrays] | None:
    inputs = sample_inputs(specs, dims)
    try:
        return inputs, interpreter.run(definition, *inputs)
    except (AssertionError, ValueError, IndexError):  # as numpy says that sizes do not fit together
        return None
