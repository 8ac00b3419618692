"""Puts fake encodings into a torch module by a recipe, and takes a trained module apart again for the importer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
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
_HOOKS = (Schedule, EightBitInput)


@dataclass(frozen=True)
class Trained:
    """What a layer stores: the encoding and its fields, and the activations' type and largest integer."""

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
    layers, tables = dict(_layers(module)), dict(_tables(module))
    names = [name for path in (*layers, *tables) for name in _names(path)]
    problems = unmatched(recipe.rules, names)
    if problems:
        raise NomulError.many(problems)
    schedule = Schedule(steps)
    linear = [path for path, layer in layers.items() if isinstance(layer, torch.nn.Linear)]
    for path, layer in layers.items():
        is_head = len(layers) > 1 and [path] == linear[-1:]
        _give(layer, recipe, _names(path), [*(["head"] if is_head else []), *_roles(layer)], schedule)
    for path, table in tables.items():
        _give(table, recipe, _names(path), TABLE, schedule)
    module.register_forward_pre_hook(schedule)
    return module


def _give(layer: Any, recipe: Recipe, names: Sequence[str], roles: Sequence[str], schedule: Schedule) -> None:
    """Fake encodings of the weight and of the input, those that `passes/encode.py` would give the layer."""
    rule, shape = recipe.rule_of(names, roles), tuple(layer.weight.shape)
    encoding = encoding_of(rule, roles, shape)[0] if rule else None
    if rule is None or encoding is None:
        return
    parametrize.register_parametrization(layer, WEIGHT, fake_of(encoding, schedule))
    rule = with_inputs_of(rule, roles, shape)
    if rule.act == EightBitInput.act and not isinstance(layer, torch.nn.Embedding):
        layer.register_forward_pre_hook(EightBitInput(rule.levels))


def _names(path: str) -> list[str]:
    """What a recipe may call the weight of a module."""
    return [value_name(f"{path}.{WEIGHT}"), path]


def _layers(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Linear layers and convolutions whose weights nobody else uses, and no other parametrization."""
    for path, sub in _alone(module, torch.nn.Linear | torch.nn.Conv2d):
        if isinstance(sub, torch.nn.Linear) or sub.groups == 1 or _is_depthwise(sub):
            yield path, sub


def _roles(layer: Any) -> list[str]:
    if isinstance(layer, torch.nn.Linear):
        return ["linear"]
    return ["conv", *([DEPTHWISE] if _is_depthwise(layer) else [])]


def _is_depthwise(layer: torch.nn.Conv2d) -> bool:
    """As `passes/layers.py` has it."""
    return layer.out_channels == layer.groups == layer.in_channels > 1


def _tables(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Embeddings likewise, but for those that change while they are read, or have sparse gradients."""
    for path, sub in _alone(module, torch.nn.Embedding):
        if sub.max_norm is None and not sub.sparse:
            yield path, sub


def _alone(module: torch.nn.Module, kind: Any) -> Iterator[tuple[str, Any]]:
    uses = Counter(id(p) for sub in module.modules() for p in sub.parameters(recurse=False))
    for path, sub in module.named_modules():
        if isinstance(sub, kind) and not parametrize.is_parametrized(sub) and uses[id(sub.weight)] == 1:
            yield path, sub


def is_prepared(module: Any) -> bool:
    """Whether `prepare_module` has seen it."""
    return isinstance(module, torch.nn.Module) and any(_fake(sub) for sub in module.modules())


def _fake(layer: torch.nn.Module) -> Fake | None:
    if not parametrize.is_parametrized(layer, WEIGHT):
        return None
    first = layer.parametrizations[WEIGHT][0]
    return first if isinstance(first, Fake) else None


def taken_apart(module: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, Trained]]:
    """A plain copy in evaluation mode that computes with the stored weights, and by weight name what they are."""
    plain, trained = copy.deepcopy(module).eval(), {}
    for path, layer in plain.named_modules():
        fake = _fake(layer)
        if fake is not None:
            held = layer.parametrizations[WEIGHT]
            several = () if held.is_tensor else range(held.ntensors)
            fields = fake.packed(*([getattr(held, f"original{number}") for number in several] or [held.original]))
            rounding = [hook for hook in layer._forward_pre_hooks.values() if isinstance(hook, EightBitInput)]
            act, levels = (rounding[0].act, rounding[0].levels) if rounding else (PLAIN, LEVELS)
            trained[value_name(f"{path}.{WEIGHT}")] = Trained(fake.encoding, fields, act, levels)
            _make_plain(layer)
        for key in [key for key, hook in layer._forward_pre_hooks.items() if isinstance(hook, _HOOKS)]:
            del layer._forward_pre_hooks[key]
    return plain, trained


def _make_plain(layer: torch.nn.Module) -> None:
    """Back to the layer's own class, with the weights that it computed.

    `parametrize.remove_parametrizations` would change the class that the layer shares with the one it is a copy of."""
    stored = layer.weight.detach().clone()
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    layer.weight = torch.nn.Parameter(stored)
