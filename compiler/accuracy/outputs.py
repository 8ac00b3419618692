"""Compares a float module with an encoded one layer by layer: errors that add up, and one layer encoded alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nomul.ir import interpreter
from nomul.ir.graph import Module, Node, Weight
from nomul.options import Progress
from nomul.passes.accuracy import Accuracy, accuracy, decibels
from nomul.passes.calibrate import Batch
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import ENCODABLE, is_table_of

ROWS = 512  # of a layer's output in one batch; more are thinned out evenly
MOST_ALONE = 64  # layers that are encoded alone, those with the largest errors of weights


def layer_outputs(plain: Module, encoded: Module, batches: Sequence[Batch]) -> dict[str, Accuracy]:
    """By weight name: outputs of the layer in the encoded model beside those in the float model, channels first."""
    kept: list[dict[str, list[np.ndarray]]] = [{}, {}]
    for batch in batches:
        for module, found in zip((plain, encoded), kept, strict=True):

            def observe(node: Node, results: Sequence[np.ndarray], found: dict[str, list[np.ndarray]] = found) -> None:
                if _is_layer(node):
                    found.setdefault(node.results[0].name, []).append(_channels(node, results[0]))

            interpreter.run(module, *batch, observer=observe)
    return {
        weight: accuracy(np.concatenate(kept[0][result], axis=1), np.concatenate(kept[1][result], axis=1))
        for weight, result in _results(encoded).items()
    }


def _results(encoded: Module) -> dict[str, str]:
    """The result of the first layer that uses each encoded weight."""
    found: dict[str, str] = {}
    for weight in encoded.weights.values():
        results = [node.results[0].name for node, _ in weight.users if _is_layer(node)]
        if weight.type.encoding is not None and results:
            found[weight.name] = results[0]
    return found


def _is_layer(node: Node) -> bool:
    return node.op in ENCODABLE or is_table_of(node)


def _channels(node: Node, result: np.ndarray) -> np.ndarray:
    """[channels, rows]"""
    images = node.op == "nn.conv2d" and node.attrs["layout"] == "nchw"
    rows = np.moveaxis(result, 1, -1) if images else result
    flat = rows.reshape(-1, rows.shape[-1])
    return flat[:: max(1, -(-len(flat) // ROWS))].T.astype(np.float32)


def first_sample(module: Module, batch: Batch) -> list[np.ndarray]:
    """The first sample alone, where the first axis of all inputs is one batch axis that may be so small."""
    params = module.main.params
    firsts = {str(param.shape[0]) if param.type.rank else "" for param in params}
    name = firsts.pop()
    if firsts or name not in module.dims:
        return list(batch)
    least = max(1, int(module.dims[name][0]))
    return [array[:least] for array in batch]


def sensitivities(plain: Module, encoded: Module, sample: Batch, progress: Progress) -> dict[str, float]:
    """By weight name: the outputs' ratio of signal to error in decibels where this layer alone is encoded.

    The smaller, the more sensitive the model is to it. Of several outputs the worst one counts."""
    facts = sorted(encoded.source.get("encoded", []), key=lambda fact: fact["weights"]["sqnr_db"])[:MOST_ALONE]
    expected = interpreter.run(plain, *sample)
    found = {}
    for number, fact in enumerate(facts, 1):
        progress(f"sensitivity {number}/{len(facts)}", 0.9 * number / len(facts))
        given = interpreter.run(_alone(plain, encoded, fact["name"]), *sample)
        found[fact["name"]] = round(min(map(ratio, expected, given), default=0.0), 2)
    return found


def ratio(expected: np.ndarray, given: np.ndarray) -> float:
    """Of signal to error, in decibels."""
    wide = expected.astype(np.float64)
    return decibels(float(np.square(wide).sum()), float(np.square(wide - given).sum()))


def _alone(plain: Module, encoded: Module, name: str) -> Module:
    """The float module with one layer as it is in the encoded one: weight, bias and activations."""
    module = plain.clone()
    twins = {node.results[0].name: node for node in encoded.main.nodes}
    for node, _ in list(module.weights[name].users):
        twin = twins[node.results[0].name]
        node.attrs = dict(twin.attrs)
        for arg in twin.args[2:]:
            if isinstance(arg, Weight):
                exchange(module, module.weights[arg.name], Weight(arg.name, arg.type, arg.fields))
    twin_weight = encoded.weights[name]
    exchange(module, module.weights[name], Weight(name, twin_weight.type, twin_weight.fields))
    return module
