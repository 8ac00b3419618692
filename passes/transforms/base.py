"""What transforms have in common: which layers a recipe asks them for, their options, and why a layer goes without."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from nomul.ir.encodings import Encoding
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Node, Value, Weight
from nomul.ir.registry import modules_of
from nomul.ir.syntax import parse_encoding
from nomul.passes.base import Pass, Report, note_for_user
from nomul.passes.calibrate import Batch, Statistics, collect, waves
from nomul.passes.choice import ANY, PLAIN, Recipe, Rule, Transformation
from nomul.passes.fallback import fitting
from nomul.passes.layers import Layer, layers_of

_TEXT = re.compile(r"([a-z_]+)\s*(?:<(.*)>)?")
Options = Mapping[str, float]


class Refused(Exception):
    """A layer goes without a transform; the text says why."""


@dataclass(frozen=True)
class Request:
    """A layer for which a rule asks for a transform, with the options given or, without one, their defaults."""

    layer: Layer
    rule: Rule
    options: Options

    @property
    def weight(self) -> Weight:
        return self.layer.weight

    @property
    def node(self) -> Node:
        """The only one that uses the weight."""
        (node,) = self.layer.nodes
        return node

    @property
    def input(self) -> Value:
        x = self.node.args[0]
        assert x is not None
        return x

    @property
    def matrix(self) -> np.ndarray:
        """f64 [N, K]"""
        array = self.weight.array()
        return array.reshape(len(array), -1).astype(np.float64)

    @property
    def encoding(self) -> Encoding | None:
        """What the weights will be stored in."""
        if self.rule.encoding is None:
            return None
        return fitting(self.rule.encoding, tuple(int(size) for size in self.weight.shape))[0]


class Transform(Pass):
    """recipe: whose rules ask for it.  batches: calibration data, empty where there is none.

    options: what may stand in angle brackets behind the name, all of them numbers, with their defaults.
    Raises NomulError (NM459) with a strict recipe for layers that cannot have it."""

    options: ClassVar[Options] = {}

    def __init__(self, recipe: Recipe | None = None, batches: Sequence[Batch] = ()) -> None:
        self.recipe = recipe or Recipe()
        self.batches = batches

    @classmethod
    def of(cls, *, options: str = "", match: str = ANY, role: str = "", weights: str = PLAIN) -> Transform:
        """With a recipe of one rule. Raises ValueError or TextFault for words that there are not."""
        asked = read_transformation(f"{cls.name}<{options}>")
        encoding = None if weights == PLAIN else parse_encoding(weights)
        return cls(Recipe((Rule(match, encoding, role=role or None, transforms=(asked,)),)))

    def refusal(self, request: Request) -> str | None:
        """Why a layer cannot have it, as far as one look at the layer tells."""
        return None

    def apply(self, module: Module, requests: Sequence[Request], report: Report) -> dict[str, str]:
        """Transform what can be; the others by weight name with a reason. The recipe asks for all of `requests`."""
        raise NotImplementedError

    def run(self, module: Module, report: Report) -> None:
        taken, refused = [], {}
        for request in self._requests(module):
            reason = request.layer.reason or _one_product(request.layer) or self.refusal(request)
            if reason:
                refused[request.weight.name] = reason
            else:
                taken.append(request)
        if taken:
            refused |= self.apply(module, taken, report)
        for name, reason in refused.items():
            note_for_user(module, report, f"@{name} stays without {self.name}: {reason}")
        if refused and self.recipe.strict:
            texts = [f"@{name} cannot have {self.name}: {reason}" for name, reason in refused.items()]
            raise NomulError.many([Problem("NM459", text, help="drop strict, or the transform") for text in texts])

    def _requests(self, module: Module) -> list[Request]:
        found = []
        for layer in layers_of(module):
            rule = self.recipe.rule_of(layer.names, layer.roles)
            asked = next((one for one in rule.transforms if one.name == self.name), None) if rule else None
            if rule and asked:
                found.append(Request(layer, rule, {**self.options, **dict(asked.options)}))
        return found

    def statistics(self, module: Module, requests: Sequence[Request]) -> dict[str, Statistics]:
        """Of the layers' inputs, by weight name; empty without calibration data."""
        found: dict[str, Statistics] = {}
        layers = [request.layer for request in requests]
        for wave in waves(layers) if self.batches else []:
            found |= collect(module, wave, self.batches, lambda number: None)
        return found


def _one_product(layer: Layer) -> str | None:
    """Why it is not one node alone that multiplies rows by the weights as a matrix, or None."""
    if len(layer.nodes) != 1:
        return f"{len(layer.nodes)} layers use it"
    if "depthwise" in layer.roles:
        return "each channel has a kernel of its own"
    return None if layer.products else "its rows are looked up"


def by_input(requests: Iterable[Request]) -> list[list[Request]]:
    """Layers that read the same value stand together."""
    groups: dict[Value, list[Request]] = {}
    for request in requests:
        groups.setdefault(request.input, []).append(request)
    return list(groups.values())


@cache
def all_transforms() -> dict[str, type[Transform]]:
    """Every transform by name, found by themselves."""
    kinds = [kind for module in modules_of("nomul.passes.transforms") for kind in vars(module).values()]
    found = [kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, Transform) and kind.name]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.name)}


def read_transformation(text: str) -> Transformation:
    """`NAME` or `NAME<option=number, ...>`. Raises ValueError for what there is not."""
    match = _TEXT.fullmatch(text.strip())
    name = match[1] if match else text
    if match is None or name not in all_transforms():
        near = difflib.get_close_matches(name, all_transforms(), 1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no transform '{name}'{guess}, but {', '.join(all_transforms())}")
    known, options = all_transforms()[name].options, []
    for part in filter(str.strip, (match[2] or "").split(",")):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in known:
            raise ValueError(f"transform {name} has no option '{key}', but {', '.join(known) or 'none'}")
        try:
            options.append((key, float(value)))
        except ValueError:
            raise ValueError(f"option {key} of transform {name} is a number, not '{value}'") from None
    return Transformation(name, tuple(options))
