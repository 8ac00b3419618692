"""Puts encodings, or the weights of other quantisers, into a model and compiles it with the weights that were stored.

What is measured is `unpack(fields)` with float activations: the compiled model has the decoded weights, dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

import numpy as np
import tvm_ffi

import nomul
from nomul.api import lower
from nomul.backends import build
from nomul.backends.lower import lower_to_object
from nomul.compare import Implementation
from nomul.ir.graph import Module, Weight
from nomul.passes import encode
from nomul.passes.base import Report
from nomul.passes.calibrate import Batch, Statistics, collect
from nomul.passes.choice import Recipe, Rule
from nomul.passes.graph_tools import exchange
from nomul.passes.layers import Layer, layers_of
from nomul.recipe import read_recipe

Quantise = Callable[[np.ndarray], tuple[np.ndarray, float]]  # f32 [N, K] -> f32 [N, K], stored bits for each weight


@dataclass(frozen=True)
class Stored:
    """module: with dense weights as they come out of storage.  bits: for each weight that was encoded, scales included.

    error: |W - stored|^2 / |W|^2 over these weights.  layers: how many."""

    module: Module
    bits: float
    error: float
    layers: int


class Store:
    """One model in many encodings: what calibration saw and the code of kernels are kept from one to the next."""

    def __init__(self, model: Any, example: Any = None, batches: Sequence[Batch] = (), **options: Any) -> None:
        self.module = lower(model, example, until="fuse", **options)
        self.batches = batches
        self._statistics: dict[str, Statistics] = {}
        self._objects: dict[tuple[Any, ...], bytes] = {}

    def plain(self) -> Stored:
        """The model as it is."""
        return Stored(self.module, 32.0, 0.0, len(self._eligible()))

    def encoded(self, encoding: str, fitter: str | None, calibrated: bool) -> Stored:
        """All layers but the head in one encoding. Raises NomulError where a layer cannot have it."""
        (rule,) = read_recipe({"*": f"{encoding} by {fitter}" if fitter else encoding}).rules
        recipe = Recipe((Rule(role="head"), rule), strict=False)
        module = self.module.clone()
        with mock.patch.object(encode, "collect", self._remembered):
            encode.Encode(recipe, self.batches if calibrated else ()).run(module, Report())
        return self.trained(module)

    def trained(self, module: Module) -> Stored:
        """What a module holds whose weights are encoded already; it is changed to dense weights."""
        found = [weight for weight in module.weights.values() if weight.type.encoding is not None]
        stored = {weight.name: sum(field.nbytes for field in weight.fields.values()) for weight in found}
        for weight in found:
            exchange(module, weight, Weight.dense(weight.name, weight.array()))
        return self._judged(module, stored)

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
        """The compiled form of a module of this store. Kernels that did not change are not made again."""
        with mock.patch.object(build, "lower_to_object", self._lower):
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
