"""The road of `nomul.qat.distill_attention`: from a model and its data to queries, keys and weights of each attention,
and to a file of learned maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nomul.calibration import read_calibration
from nomul.frontend.torch.qat.distill import Distilled, Sample, distil_layer
from nomul.ir.dim import Dim
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module
from nomul.ir.interpreter import bind_dims
from nomul.ir.ops.attention import attention
from nomul.options import Options
from nomul.passes.calibrate import Batch
from nomul.passes.choice import no_match
from nomul.passes.exchange import AttentionLayer, AttentionRule, attention_layers, show_latent
from nomul.passes.exchange.base import Operands
from nomul.passes.exchange.linear import Linear
from nomul.passes.exchange.maps import FORMS, Maps, save_maps
from nomul.passes.exchange_attention import operands_of
from nomul.pipeline import optimise
from nomul.source import read_model

MOST_BATCHES = 64
QUERIES = 256  # of one sequence; more are thinned out evenly


def distil(
    model: Any,
    data: Any,
    example_inputs: Any,
    output: Path,
    match: str,
    form: str,
    steps: int,
    rate: float,
    source_options: dict[str, Any],
) -> dict[str, Distilled]:
    """See `nomul.qat.distill_attention`."""
    _check(form, steps, rate)
    module = read_model(model, example_inputs, **source_options)
    batches = read_calibration(data, module)[:MOST_BATCHES]
    module = optimise(module, Options(until="fuse"))
    show_latent(module)
    layers = _chosen(module, match)
    operands = operands_of(module, [layer.node for layer in layers], batches)
    found = {}
    for layer in layers:
        samples = [_sample(layer, *pair, module) for pair in zip(operands[layer.node], batches, strict=True)]
        found[layer.name] = distil_layer(samples, form, steps, rate)
    arrays = {f"{name}.{part}": getattr(maps, part) for name, maps in found.items() for part in ("q", "k")}
    save_maps(Maps(form, arrays), output)
    return found


def _check(form: str, steps: int, rate: float) -> None:
    """Raises NomulError (NM009) with all that cannot be."""
    wrong = [] if form in FORMS else [f"form is one of {', '.join(FORMS)}, not '{form}'"]
    wrong += [] if steps >= 1 else [f"steps is a number above 0, not {steps}"]
    wrong += [] if rate > 0 else [f"rate is a number above 0, not {rate}"]
    if wrong:
        raise NomulError.many([Problem("NM009", text) for text in wrong])


def _chosen(module: Module, match: str) -> list[AttentionLayer]:
    """Raises NomulError for all layers at once: NM458, NM464."""
    layers, rule = attention_layers(module), AttentionRule(match, Linear("elu"))
    nothing = no_match(match, [name for layer in layers for name in layer.names], "no softmax attention")
    if nothing:
        raise NomulError.many([nothing])
    chosen = [layer for layer in layers if rule.takes(layer)]
    reasons = [(layer, rule.form.refusal(layer)) for layer in chosen]
    problems = [
        Problem("NM464", f"{layer.name} cannot be distilled: {reason}", layer.node.loc, "leave it out with match")
        for layer, reason in reasons
        if reason
    ]
    if problems:
        raise NomulError.many(problems)
    return chosen


def _sample(layer: AttentionLayer, operands: Operands, batch: Batch, module: Module) -> Sample:
    """Queries, keys, and the weights that softmax attention gives: its results for values that name their key."""
    q, k, _, *rest = operands
    assert q is not None and k is not None
    dims = bind_dims(module, [param.type for param in module.main.params], batch)
    attrs = {name: _number(value, dims) for name, value in layer.node.attrs.items()}
    ones = np.eye(k.shape[1], dtype=q.dtype)[None, :, None].repeat(k.shape[0], 0).repeat(k.shape[2], 2)
    weights = attention.function(q, k, ones, *rest, **attrs).transpose(0, 2, 1, 3)
    step = max(1, -(-q.shape[1] // QUERIES))
    return Sample(*(np.asarray(x, np.float32) for x in (q[:, ::step], k, weights[:, :, ::step])))


def _number(value: Any, dims: dict[str, int]) -> Any:
    return value.evaluate(dims) if isinstance(value, Dim) else value
