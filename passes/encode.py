"""Stores the weights of linear layers and convolutions in the encodings that a recipe names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from nomul.ir.encodings import Encoding, all_encodings
from nomul.ir.errors import NomulError, Problem
from nomul.ir.graph import Module, Weight
from nomul.ir.types import DType, Tensor
from nomul.passes.base import Pass, Report
from nomul.passes.fit import DEFAULT, all_fitters

PLAIN = "f32"  # leaves a weight as the model has it


class Encode(Pass):
    """The first pattern (glob) of the recipe that a weight's name matches decides: an encoding, or "f32" to leave it.

    `ENCODING by FITTER` also says how to choose the bytes (default: round to nearest). Eligible are f32 weights that
    linear layers and convolutions without groups use as their weights, and nobody else.
    Raises NomulError (NM457) for unknown names and weights that do not fit, all at once."""

    name = "encode"
    exact = False

    def __init__(self, recipe: Mapping[str, str] | None = None) -> None:
        self.recipe = dict(recipe or {})

    def run(self, module: Module, report: Report) -> None:
        problems: list[Problem] = []
        for weight in list(module.weights.values()):
            text = self._wanted(weight.name)
            if text is None or weight.type.encoding is not None:
                continue
            reason = refusal(weight)
            if reason is None:
                problems += self._encode(module, weight, text, report)
            elif weight.dtype is DType.F32 and weight.type.rank >= 2:
                report.note(f"@{weight.name} stays {weight.type}: {reason}")
        if problems:
            raise NomulError.many(problems)

    def _wanted(self, name: str) -> str | None:
        found = next((text for pattern, text in self.recipe.items() if fnmatchcase(name, pattern)), PLAIN)
        return None if found == PLAIN else found

    def _encode(self, module: Module, weight: Weight, text: str, report: Report) -> list[Problem]:
        try:
            encoding, fitter = parse_choice(text)
            fields = all_fitters()[fitter](weight.array().astype(np.float32, copy=False), None, encoding)
        except (ValueError, TypeError, KeyError) as error:
            return [Problem("NM457", f"weight @{weight.name} cannot be stored as {text}: {error}", _loc(weight))]
        _exchange(module, weight, encoding, fields)
        report.fire(str(encoding))
        return []


def refusal(weight: Weight) -> str | None:
    """Why a weight is not eligible, or None."""
    if weight.dtype is not DType.F32:
        return f"it is {weight.dtype}"
    if not weight.fields:
        return "its data is not loaded"
    for node, position in weight.users:
        if node.op not in ("nn.linear", "nn.conv2d") or position != 1:
            return f"{node.op} uses it as operand {position}"
        if node.attrs.get("groups", 1) != 1:
            return "the convolution has groups"
    return None if weight.users else "nobody uses it"


def parse_choice(text: str) -> tuple[Encoding, str]:
    """`ternary<planes=2> by ptqtp` as encoding and fitter. Raises ValueError or TypeError for what does not exist."""
    head, _, fitter = text.partition(" by ")
    found = re.fullmatch(r"\s*(\w+)\s*(?:<(.*)>)?\s*", head)
    if found is None or found[1] not in all_encodings():
        raise ValueError(f"there is no encoding '{head.strip()}'")
    pairs = [part.partition("=") for part in (found[2] or "").split(",") if part.strip()]
    encoding = all_encodings()[found[1]].from_text({name.strip(): value.strip() for name, _, value in pairs})
    name = fitter.strip() or DEFAULT
    if name not in all_fitters():
        raise ValueError(f"there is no fitter '{name}' (there are: {', '.join(all_fitters())})")
    return encoding, name


def _loc(weight: Weight) -> str | None:
    return weight.users[0][0].loc if weight.users else None


def _exchange(module: Module, weight: Weight, encoding: Encoding, fields: Mapping[str, np.ndarray]) -> None:
    """Put an encoded weight of the same name in the place of a dense one."""
    twin = Weight(weight.name, Tensor(weight.dtype, weight.shape, encoding), fields)
    for func in module.funcs.values():
        for node, position in [use for use in weight.users if use[0] in func.nodes]:
            func.set_args(node, (*node.args[:position], twin, *node.args[position + 1 :]))
    module.weights[weight.name] = twin
