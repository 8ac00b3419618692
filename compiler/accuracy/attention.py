"""What a model loses where attention was exchanged: each layer's output, that layer alone, and all of them together."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from nomul.accuracy.outputs import MOST_ALONE, ROWS, ratio
from nomul.ir import interpreter
from nomul.ir.graph import Module, Node
from nomul.options import Progress
from nomul.passes.accuracy import accuracy
from nomul.passes.base import Report
from nomul.passes.calibrate import Batch
from nomul.passes.choice import Recipe
from nomul.passes.exchange_attention import ExchangeAttention


def exchanged_module(
    fused: Module, recipe: Recipe, batches: Sequence[Batch], only: Collection[str] | None = None
) -> Module:
    """The float model with the attention that the recipe asks for, in all layers or `only` in some."""
    module = fused.clone()
    module.source = {**module.source, "exchanged": []}
    ExchangeAttention(recipe, batches, only).run(module, Report())
    return module


def attention_facts(
    fused: Module, recipe: Recipe, batches: Sequence[Batch], samples: Sequence[Batch], progress: Progress
) -> list[dict[str, Any]]:
    """One fact for each exchanged layer, in order. outputs: of its attention beside that in the float model, where the
    layers before it are exchanged too.  sensitivity: in decibels, of the model's outputs where it alone is exchanged.

    batches: calibration data that forms learn from.  samples: inputs for the comparison."""
    exchanged = exchanged_module(fused, recipe, batches)
    facts: list[dict[str, Any]] = [dict(fact) for fact in exchanged.source["exchanged"]]
    values = [fact["value"] for fact in facts]
    kept = [_outputs(module, values, samples) for module in (fused, exchanged)] if facts else []
    expected = interpreter.run(fused, *samples[0]) if facts else ()
    for number, fact in enumerate(facts, 1):
        fact["outputs"] = accuracy(*(found[fact["value"]] for found in kept)).as_json()
        fact["sensitivity"] = None
        if number <= MOST_ALONE:
            progress(f"attention {number}/{len(facts)}", 0.3 * number / len(facts))
            alone = exchanged_module(fused, recipe, batches, [fact["name"]])
            given = interpreter.run(alone, *samples[0])
            fact["sensitivity"] = round(min(map(ratio, expected, given), default=0.0), 2)
    return facts


def _outputs(module: Module, values: Collection[str], samples: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Results of attention [channels, rows] by the name of their value."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in values}

    def observe(node: Node, results: Sequence[np.ndarray]) -> None:
        if node.results[0].name in found:
            rows = results[0].reshape(-1, results[0].shape[-2] * results[0].shape[-1])
            found[node.results[0].name].append(rows[:: max(1, -(-len(rows) // ROWS))].T.astype(np.float32))

    for batch in samples:
        interpreter.run(module, *batch, observer=observe)
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
