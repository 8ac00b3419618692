"""Puts fake encodings into a torch module by a recipe, and takes a trained module apart again for the importer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize

from nomul.frontend.common import value_name
from nomul.frontend.torch.qat.fake import Fake, fake_of
from nomul.frontend.torch.qat.inputs import EightBitInput
from nomul.frontend.torch.qat.schedule import Schedule
from nomul.ir.encodings import Encoding
from nomul.ir.errors import NomulError
from nomul.ir.quantise import LEVELS
from nomul.passes.choice import PLAIN, TABLE, Recipe, unmatched
from nomul.passes.depthwise import ROLE as DEPTHWISE
from nomul.passes.depthwise import encoding_of, with_inputs_of
from nomul.passes.fit import Fields

WEIGHT = "weight"
Users = dict[str, Any]  # modules that compute with one weight, by path
_HOOKS = (Schedule, EightBitInput)


@dataclass(frozen=True)
class Trained:
    """What a weight stores: its names, of which the graph has one, the encoding and its fields, and the activations'
    type and largest integer."""

    names: tuple[str, ...]
    encoding: Encoding
    fields: Fields
    act: str
    levels: int


def prepare_module(module: torch.nn.Module, recipe: Recipe, steps: int) -> torch.nn.Module:
    """See `nomul.qat.prepare`."""
    if is_prepared(module):
        raise NomulError("NM009", "the module is prepared already", help="load the float module again")
    if recipe.attention:
        raise NomulError("NM009", "attention is not exchanged for training", help="give these rules to nomul.compile")
    if any(rule.act == "i8-static" for rule in recipe.rules):
        raise NomulError("NM009", 'act = "i8-static" cannot be trained', help='act = "i8" has a scale for each row')
    weights = _weights(module)
    problems = unmatched(recipe.rules, [name for users in weights for name in _names(users)])
    if problems:
        raise NomulError.many(problems)
    schedule, head = Schedule(steps), _head(module, weights)
    for users in weights:
        roles = dict.fromkeys(role for layer in users.values() for role in _roles(layer, head))
        _give(users, recipe, tuple(roles), schedule)
    module.register_forward_pre_hook(schedule)
    return module


def _give(users: Users, recipe: Recipe, roles: Sequence[str], schedule: Schedule) -> None:
    """Fake encodings of a weight and of the inputs of its layers, those that `passes/encode.py` would give them."""
    first, *others = users.values()
    rule, shape = recipe.rule_of(_names(users), roles), tuple(first.weight.shape)
    encoding = encoding_of(rule, roles, shape)[0] if rule else None
    if rule is None or encoding is None:
        return
    parametrize.register_parametrization(first, WEIGHT, fake_of(encoding, schedule))
    for other in others:
        parametrize.register_parametrization(other, WEIGHT, torch.nn.Identity())
        other.parametrizations[WEIGHT] = first.parametrizations[WEIGHT]
    rule = with_inputs_of(rule, roles, shape)
    for layer in users.values():
        if rule.act == EightBitInput.act and not isinstance(layer, torch.nn.Embedding):
            layer.register_forward_pre_hook(EightBitInput(rule.levels))


def _names(users: Users) -> list[str]:
    """What a recipe may call a weight."""
    return [name for path in users for name in (_name(path), path)]


def _name(path: str) -> str:
    return value_name(f"{path}.{WEIGHT}")


def _weights(module: torch.nn.Module) -> list[Users]:
    """By weight the modules that share it, where an encoding can be trained for all of them."""
    uses = Counter(id(p) for sub in module.modules() for p in sub.parameters(recurse=False))
    found: dict[int, Users] = {}
    for path, sub in module.named_modules():
        if not parametrize.is_parametrized(sub) and _roles(sub):
            found.setdefault(id(sub.weight), {})[path] = sub
    return [users for weight, users in found.items() if len(users) == uses[weight]]


def _head(module: torch.nn.Module, weights: Sequence[Users]) -> torch.nn.Module | None:
    """The last linear layer, where it is not the only layer."""
    layers = {sub for users in weights for sub in users.values() if not isinstance(sub, torch.nn.Embedding)}
    linear = [sub for sub in module.modules() if isinstance(sub, torch.nn.Linear) and sub in layers]
    return linear[-1] if linear and len(layers) > 1 else None


def _roles(layer: Any, head: torch.nn.Module | None = None) -> tuple[str, ...]:
    """As `passes/layers.py` has them; none for what keeps its floats: other modules, convolutions with groups of
    several channels, embeddings that change while they are read or have sparse gradients."""
    if isinstance(layer, torch.nn.Linear):
        return ("head", "linear") if layer is head else ("linear",)
    if isinstance(layer, torch.nn.Embedding):
        return TABLE if layer.max_norm is None and not layer.sparse else ()
    if not isinstance(layer, torch.nn.Conv2d):
        return ()
    if layer.out_channels == layer.groups == layer.in_channels > 1:
        return ("conv", DEPTHWISE)
    return ("conv",) if layer.groups == 1 else ()


def is_prepared(module: Any) -> bool:
    """Whether `prepare_module` has seen it."""
    return isinstance(module, torch.nn.Module) and any(_fake(sub) for sub in module.modules())


def _fake(layer: torch.nn.Module) -> Fake | None:
    if not parametrize.is_parametrized(layer, WEIGHT):
        return None
    first = layer.parametrizations[WEIGHT][0]
    return first if isinstance(first, Fake) else None


def taken_apart(module: torch.nn.Module) -> tuple[torch.nn.Module, list[Trained]]:
    """A plain copy in evaluation mode that computes with the stored weights, and what these are."""
    plain = copy.deepcopy(module).eval()
    found: dict[Any, Users] = {}
    for path, layer in plain.named_modules():
        if _fake(layer):
            found.setdefault(layer.parametrizations[WEIGHT], {})[path] = layer
    trained = [_trained(held, users) for held, users in found.items()]
    for held, users in found.items():
        _make_plain(users, held().detach().clone())
    for layer in plain.modules():
        for key in [key for key, hook in layer._forward_pre_hooks.items() if isinstance(hook, _HOOKS)]:
            del layer._forward_pre_hooks[key]
    return plain, trained


def _trained(held: Any, users: Users) -> Trained:
    several = () if held.is_tensor else range(held.ntensors)
    fields = held[0].packed(*([getattr(held, f"original{number}") for number in several] or [held.original]))
    hooks = [hook for layer in users.values() for hook in layer._forward_pre_hooks.values()]
    rounding = [hook for hook in hooks if isinstance(hook, EightBitInput)]
    act, levels = (rounding[0].act, rounding[0].levels) if rounding else (PLAIN, LEVELS)
    return Trained(tuple(map(_name, users)), held[0].encoding, fields, act, levels)


def _make_plain(users: Users, stored: torch.Tensor) -> None:
    """Back to the layers' own classes, with the weight that they computed, which they share.

    `parametrize.remove_parametrizations` would change the class that a layer shares with the one it is a copy of."""
    weight = torch.nn.Parameter(stored)
    for layer in users.values():
        del layer.parametrizations
        layer.__class__ = type(layer).__bases__[0]
        layer.weight = weight
