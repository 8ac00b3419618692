"""Puts encodings, or the weights of other quantisers, into a model and compiles it with the weights that were stored.

What is measured is `unpack(fields)` with float activations: the compiled model has the decoded weights, dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any
from unittest import mock

import numpy as np
import tvm_ffi
from accuracy_exchange import Exchange  # stands beside this file

import nomul
from nomul.api import lower
from nomul.backends import build
from nomul.backends.lower import lower_to_object
from nomul.compare import Implementation
from nomul.ir.encodings import get_encoding
from nomul.ir.graph import Module, Weight
from nomul.options import Options
from nomul.passes import encode
from nomul.passes.base import Report
from nomul.passes.calibrate import Batch, Statistics, collect
from nomul.passes.choice import Recipe, Rule
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import Layer, layers_of
from nomul.passes.transforms import all_transforms, read_transformation
from nomul.passes.transforms.factorisation import Factorisation
from nomul.pipeline import encode_pass
from nomul.recipe import read_recipe

Quantise = Callable[[np.ndarray], tuple[np.ndarray, float]]  # f32 [N, K] -> f32 [N, K], stored bits for each weight


@dataclass(frozen=True)
class Stored:
    """module: with dense weights as they come out of storage.  bits: for each weight that was encoded, scales included.

    error: |W - stored|^2 / |W|^2 over these weights; None where they do not stand for those of the model one by one.
    layers: how many."""

    module: Module
    bits: float
    error: float | None
    layers: int


class Store:
    """One model in many encodings: what calibration saw and the code of kernels are kept from one to the next."""

    def __init__(self, model: Any, example: Any = None, batches: Sequence[Batch] = (), **options: Any) -> None:
        self.module = lower(model, example, until="fuse", **options)
        self.batches = batches
        self._statistics: dict[str, Statistics] = {}
        self._objects: dict[tuple[Any, ...], bytes] = {}
        self._exchange: Exchange | None = None

    def plain(self) -> Stored:
        """The model as it is."""
        return Stored(self.module, 32.0, 0.0, len(self._eligible()))

    def encoded(self, rule: Mapping[str, str], calibrated: bool) -> Stored:
        """All layers but the head as a recipe's rule says. Raises NomulError where a layer cannot have it."""
        recipe = Recipe((Rule(role="head"), *read_recipe({"layers": [rule]}).rules))
        options = Options(recipe=recipe, batches=self.batches if calibrated else ())
        module = self.module.clone()
        with mock.patch.object(encode, "collect", self._remembered):
            encode_pass(options).run(module, Report())
        return self.trained(module)

    def transformed(self, encoding: str, fitter: str, calibrated: bool, transform: str) -> Stored:
        """The same after a transform of all layers but the head; factors that it makes beside them have eight bits.
        bits: for each weight that was there before. Raises NomulError as `encoded`."""
        (rule,) = read_recipe({"*": f"{encoding} by {fitter}"}).rules
        asked = replace(rule, transforms=(read_transformation(transform),))
        makes_factors = issubclass(all_transforms()[transform], Factorisation)
        factors = [Rule("*.basis", get_encoding("int8"))] if makes_factors else []
        batches = self.batches if calibrated else None
        module = lower(self.module, until="encode", recipe=Recipe((Rule(role="head"), *factors, asked)), calib=batches)
        layers = [layer.weight for layer in self._eligible()]
        others = set(self.module.weights) - {weight.name for weight in layers}
        made = [weight for name, weight in module.weights.items() if name not in others]
        stored = sum(field.nbytes for weight in made for field in weight.fields.values())
        _decode(module)
        return Stored(module, 8 * stored / sum(weight.array().size for weight in layers), None, len(layers))

    def trained(self, module: Module) -> Stored:
        """What a module holds whose weights are encoded already; it is changed to dense weights."""
        return self._judged(module, _decode(module))

    def quantised(self, quantise: Quantise) -> Stored:
        """All layers but the head by another quantiser, which sees matrices [N, K]."""
        module, stored = self.module.clone(), {}
        for layer in self._eligible():
            array = layer.weight.array()
            values, bits = quantise(array.reshape(len(array), -1))
            stored[layer.weight.name] = bits * array.size / 8
            weight = module.weights[layer.weight.name]
            exchange(module, weight, Weight.dense(weight.name, values.reshape(array.shape)))
        return self._judged(module, stored)

    def compile(self, module: Module) -> Implementation:
        """The compiled form of a module of this store. What did not change, kernels or all but weights, is not made
        again."""
        with mock.patch.object(build, "lower_to_object", self._lower):
            self._exchange = self._exchange or Exchange(self.module)
            if run := self._exchange.run_with(module):
                return run
            artifact = nomul.compile(module)
        return lambda values: artifact(*values)

    def _judged(self, module: Module, stored: Mapping[str, float]) -> Stored:
        pairs = [(self.module.weights[name].array(), module.weights[name].array()) for name in stored]
        power = sum(float(np.vdot(before, before)) for before, _ in pairs)
        noise = sum(float(np.vdot(before - after, before - after)) for before, after in pairs)
        count = sum(prod(before.shape) for before, _ in pairs)
        bits = 8 * sum(stored.values()) / count if count else 32.0
        return Stored(module, bits, noise / max(power, 1e-30), len(stored))

    def _eligible(self) -> list[Layer]:
        return [
            layer
            for layer in layers_of(self.module)
            if layer.reason is None and "head" not in layer.roles and layer.roles != ("embedding",)
        ]

    def _remembered(
        self, module: Module, layers: Sequence[Layer], batches: Iterable[Batch], progress: Callable[[int], None]
    ) -> dict[str, Statistics]:
        names = [layer.weight.name for layer in layers]
        if not all(name in self._statistics for name in names):
            self._statistics |= collect(module, layers, batches, progress)
        return {name: self._statistics[name] for name in names if name in self._statistics}

    def _lower(self, functions: Mapping[str, Any], target: Any, *arguments: Any, **named: Any) -> bytes:
        hashes = [(name, int(tvm_ffi.structural_hash(function))) for name, function in functions.items()]
        key = (target.level, *hashes)
        if key not in self._objects:
            self._objects[key] = lower_to_object(functions, target, *arguments, **named)
        return self._objects[key]


def _decode(module: Module) -> dict[str, int]:
    """Changes encoded weights to dense ones. The result: the bytes that each had."""
    found = [weight for weight in module.weights.values() if weight.type.encoding is not None]
    for weight in found:
        exchange(module, weight, Weight.dense(weight.name, weight.array()))
    return {weight.name: sum(field.nbytes for field in weight.fields.values()) for weight in found}
