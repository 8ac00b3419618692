"""Runs modules that differ in values of weights alone by one library, whose weights file is written anew for each."""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np

import nomul
from nomul.backends.build import build_plan
from nomul.backends.link import link_library
from nomul.backends.weights_image import WeightsImage
from nomul.compare import Implementation
from nomul.ir.graph import Module, Weight
from nomul.ir.text import print_module
from nomul.options import Options
from nomul.pipeline import lower_to_plan


class Exchange:
    """The library of one module; `run_with` gives it the weights of another.

    Weights can be exchanged that passes leave alone or put one under the other, as those of query, key and value; after
    anything else that is made of them, the passes would have to run again."""

    def __init__(self, module: Module) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="nomul-accuracy-")
        self._text, self._module = print_module(module), module
        self._compiled = lower_to_plan(module, Options(name="model"))
        self._library = Path(self._folder.name) / "model.so"
        link_library(self._compiled.plan, self._library, weights="external", facts=self._compiled.facts)
        self._header = WeightsImage(self._compiled.plan.weights).header
        self._sources = sources_of(self._compiled.module, module)
        self._runs = 0

    def run_with(self, module: Module) -> Implementation | None:
        """The module's implementation, or None where it differs in more than weights that can be exchanged."""
        if print_module(module) != self._text:
            return None
        changed = {name for name, weight in module.weights.items() if not _equal(weight, self._module.weights[name])}
        if not changed <= {name for names in self._sources.values() for name in names}:
            return None
        weights = self._compiled.module.weights
        targets = {target: names for target, names in self._sources.items() if changed & set(names)}
        before = {target: weights[target].fields for target in targets}
        for target, names in targets.items():
            weights[target].fields = {"data": np.concatenate([module.weights[name].array() for name in names])}
        try:
            return self._run()
        finally:
            for target, fields in before.items():
                weights[target].fields = fields

    def _run(self) -> Implementation | None:
        """With the weights as they are now. None where equal tables, which are stored once, have moved them."""
        known = self._compiled
        plan = build_plan(known.module, known.selection, known.plan.name, lambda *_: known.plan.levels)
        if replace(plan, weights=b"") != replace(known.plan, weights=b""):
            return None
        self._runs += 1
        path = self._library.with_name(f"weights.{self._runs}")
        with path.open("wb") as file:
            file.writelines((self._header, plan.weights))
        artifact = nomul.load(self._library, weights=path, verify=False)  # the header has the first weights' checksum
        weakref.finalize(artifact, path.unlink, missing_ok=True)
        return lambda values: artifact(*values)


def sources_of(final: Module, module: Module) -> dict[str, tuple[str, ...]]:
    """The dense weights of `final` that are weights of `module`, one or several under each other, with their names."""
    found: dict[str, tuple[str, ...]] = {}
    for name, weight in final.weights.items():
        same = module.weights.get(name)
        if weight.type.encoding is None and weight.shape:
            names = (name,) if same is not None and _equal(weight, same) else _stack(weight, module)
            found |= {name: names} if names else {}
    return found


def _stack(weight: Weight, module: Module) -> tuple[str, ...]:
    """The weights under each other that are this one; none where there are none, or more than one choice."""
    names: list[str] = []
    rest = weight.array()
    while len(rest):
        fitting = [
            name
            for name, part in module.weights.items()
            if part.type.encoding is None and part.shape and _begins(rest, part.array())
        ]
        if len(fitting) != 1:
            return ()
        names += fitting
        rest = rest[len(module.weights[fitting[0]].array()) :]
    return tuple(names)


def _begins(rest: np.ndarray, part: np.ndarray) -> bool:
    if not 0 < len(part) <= len(rest) or part.shape[1:] != rest.shape[1:] or part.dtype != rest.dtype:
        return False
    return bool(np.array_equal(rest[0], part[0]) and np.array_equal(rest[: len(part)], part))


def _equal(left: Weight, right: Weight) -> bool:
    """Whether two weights have the same bytes of the same type."""
    if left.type != right.type or left.fields.keys() != right.fields.keys():
        return False
    pairs = [(left.fields[name], right.fields[name]) for name in left.fields]
    return all(one is other or np.array_equal(one, other) for one, other in pairs)
