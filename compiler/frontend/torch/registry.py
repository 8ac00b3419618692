"""Which function lowers which ATen op. Functions register by decorator; files under `ops/` are found by themselves."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

Function = Callable[..., Any]


@dataclass(frozen=True)
class Handler:
    """lazy: the function takes values of `nomul.frontend.torch.lazy` as they are; otherwise they are computed first.
    refuses: it only says why there can be no lowering."""

    function: Function
    lazy: bool = False
    refuses: bool = False


_HANDLERS: dict[str, Handler] = {}
_RULES: dict[str, Function] = {}


def aten(*names: str, lazy: bool = False, refuses: bool = False) -> Callable[[Function], Function]:
    """Declare the lowering of ATen ops: `linear` for all overloads, `max.dim` for one.

    The function takes the Lowering, then the op's operands as in its ATen schema (device, layout, pin_memory and
    memory_format are left out), and returns a value or a tuple of values."""

    def declare(function: Function) -> Function:
        for name in names:
            if name in _HANDLERS:
                raise ValueError(f"aten.{name} is declared twice")
            _HANDLERS[name] = Handler(function, lazy, refuses)
        return function

    return declare


def rule(*names: str) -> Callable[[Function], Function]:
    """Declare what an op does to values known by formula (see `lazy.py`). The function returns None where it cannot."""

    def declare(function: Function) -> Function:
        for name in names:
            if name in _RULES:
                raise ValueError(f"the rule of aten.{name} is declared twice")
            _RULES[name] = function
        return function

    return declare


@cache
def _load() -> None:
    package = importlib.import_module("nomul.frontend.torch.ops")
    for module in pkgutil.iter_modules(package.__path__, "nomul.frontend.torch.ops."):
        importlib.import_module(module.name)


def names_of(target: Any) -> tuple[str, str]:
    """(`add.Tensor`, `add`) for torch.ops.aten.add.Tensor; ops of other namespaces keep theirs in front."""
    namespace, name = target._schema.name.split("::")
    packet = name if namespace == "aten" else f"{namespace}.{name}"
    return f"{packet}.{target._overloadname}", packet


def handler_of(target: Any) -> Handler | None:
    """The handler of an OpOverload, or None."""
    _load()
    overload, packet = names_of(target)
    return _HANDLERS.get(overload) or _HANDLERS.get(packet)


def rule_of(target: Any) -> Function | None:
    """The formula rule of an OpOverload, or None."""
    _load()
    overload, packet = names_of(target)
    return _RULES.get(overload) or _RULES.get(packet)


@cache
def further_decompositions() -> dict[Any, Function]:
    """Decompositions that torch has beyond those of its core operators, of operators that real models use."""
    from torch._decomp import get_decompositions

    aten_ops = torch.ops.aten
    packets = (aten_ops.grid_sampler_2d, aten_ops.native_dropout)
    return get_decompositions(packets)


def lowered_ops() -> list[str]:
    """The names of all ops that have a lowering."""
    _load()
    return sorted(name for name, handler in _HANDLERS.items() if not handler.refuses)
