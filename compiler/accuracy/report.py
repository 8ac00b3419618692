"""Collects the accuracy report: weights, outputs of layers, sensitivity, end to end, and the library beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from nomul.accuracy.attention import attention_facts, exchanged_module
from nomul.accuracy.outputs import first_sample, layer_outputs, sensitivities
from nomul.compare import difference
from nomul.energy import layer_costs
from nomul.ir import interpreter
from nomul.ir.errors import NomulError
from nomul.ir.graph import Module, Value
from nomul.ir.op import Kind
from nomul.options import Progress
from nomul.passes.accuracy import accuracy
from nomul.passes.base import Report
from nomul.passes.calibrate import Batch
from nomul.passes.encode import Encode
from nomul.passes.layers import layers_of
from nomul.passes.store_cache import StoreCache
from nomul.runtime.loader import load
from nomul.sample import input_specs, module_fits, pick_dims, sample_inputs

FORMAT = 1
MOST_BATCHES = 4  # of the calibration data that outputs are compared on


def measure(
    fused: Module, transformed: Module, encode: Encode, library: Path, name: str, progress: Progress
) -> dict[str, Any]:
    """The whole report. fused: the float model.  transformed: as the encoder gets it.  encode: with the recipe and
    calibration data.  library: the artifact; where it does not run on this machine, its part holds the reason."""
    encoded = _encoded(transformed, encode, name)
    facts = [dict(fact) for fact in encoded.source.get("encoded", [])]
    batches = list(encode.batches[:MOST_BATCHES])
    samples = batches or [sample_inputs(input_specs(fused), pick_dims(fused.dims, {}, module_fits(fused)))]
    found = layer_outputs(transformed, encoded, batches) if batches else {}
    alone = sensitivities(transformed, _uncorrected(transformed, encode), first_sample(fused, samples[0]), progress)
    for fact in facts:
        fact["outputs"] = found[fact["name"]].as_json() if fact["name"] in found else None
        fact["sensitivity"] = alone.get(fact["name"])
    recipe = encode.recipe
    attention = attention_facts(fused, recipe, encode.batches, samples, progress) if recipe.attention else []
    progress("outputs", 0.9)
    return {
        "format": FORMAT,
        "name": name,
        "inputs": f"{len(batches)} calibration batches" if batches else "random",
        "layers": facts,
        "attention": attention,
        "attention_outputs": _end_to_end(fused, exchanged_module(fused, recipe, encode.batches), samples)
        if attention
        else [],
        "notes": list(encoded.source.get("notes", [])),
        "work": work_facts(encoded, pick_dims(fused.dims, {}, module_fits(fused))),
        "outputs": _end_to_end(fused, encoded, samples),
        "library": _library(encoded, samples[0], library),
    }


def _encoded(transformed: Module, encode: Encode, name: str) -> Module:
    module = transformed.clone()
    module.source = module.source or {"name": name}
    encode.run(module, Report())
    return module


def _uncorrected(transformed: Module, encode: Encode) -> Module:
    """Encoded layers whose biases do not make up for errors of others, so that each can be tried alone."""
    own = copy(encode)
    own.recipe = replace(encode.recipe, correct_means=False)
    return _encoded(transformed, own, "")


def work_facts(module: Module, dims: Mapping[str, int]) -> dict[str, Any]:
    """Operations and energy of each layer (`compiler/energy.py`) at these sizes."""
    layers = [
        {
            "layer": cost.loc or cost.op,
            "encoding": cost.encoding,
            "act": cost.act,
            **asdict(cost.work),
            "picojoules": round(cost.picojoules),
            "dense_picojoules": round(cost.dense_picojoules),
        }
        for cost in layer_costs(module, dims)
    ]
    return {"dims": dict(dims), "layers": layers}


def _end_to_end(fused: Module, encoded: Module, samples: Sequence[Batch]) -> list[dict[str, Any]]:
    """Each float output: the encoded module beside the float one; the divergence where it may be logits."""
    runs = [(interpreter.run(fused, *batch), interpreter.run(encoded, *batch)) for batch in samples]
    names = fused.main.result_names or [value.name for value in fused.main.returns]
    facts = []
    for place, (name, value) in enumerate(zip(names, fused.main.returns, strict=True)):
        pairs = [(plain[place], given[place]) for plain, given in runs if plain[place].dtype.kind == "f"]
        if not pairs or not pairs[0][0].ndim:
            continue
        rows = [np.concatenate([_rows(pair[side]) for pair in pairs]) for side in (0, 1)]
        fact = {"name": name, **accuracy(rows[0].T, rows[1].T).as_json()}
        facts.append(fact | {"kl": round(divergence(*rows), 6) if is_logits(fused, value) else None})
    return facts


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def divergence(plain: np.ndarray, given: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats of the distributions that rows of logits [rows, classes] stand for."""
    log_p, log_q = _log_softmax(plain), _log_softmax(given)
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean())


def _log_softmax(rows: np.ndarray) -> np.ndarray:
    shifted = rows.astype(np.float64) - rows.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def is_logits(module: Module, value: Value) -> bool:
    """Whether an output comes from a head through element-wise work and views alone."""
    heads = {node for layer in layers_of(module) if "head" in layer.roles for node in layer.products}
    waiting = [value]
    while waiting:
        node = waiting.pop().producer
        if node is None:
            continue
        if node in heads:
            return True
        if node.spec.kind in (Kind.ELEMENTWISE, Kind.VIEW):
            waiting += [arg for arg in node.args if arg is not None]
    return False


def _library(encoded: Module, batch: Batch, path: Path) -> dict[str, Any]:
    """The compiled library beside the interpreter of the encoded module."""
    definition, inputs = _as_compiled(encoded, batch)
    try:
        artifact = load(path)
        results = artifact(*inputs)
    except NomulError as error:
        return {"reason": error.message}
    pairs = zip(artifact.outputs, interpreter.run(definition, *inputs), results, strict=True)
    apart = [(port.name, difference(expected, given)) for port, expected, given in pairs]
    return {"outputs": [{"name": name, "absolute": d.absolute, "relative": d.relative} for name, d in apart]}


def _as_compiled(encoded: Module, batch: Batch) -> tuple[Module, Batch]:
    """The module with the inputs that the library takes, and the batch; random ones where past keys are codes."""
    module = encoded.clone()
    StoreCache().run(module, Report())
    if len(module.main.params) == len(batch):
        return encoded, batch
    return module, sample_inputs(input_specs(module), pick_dims(module.dims, {}, module_fits(module)))
