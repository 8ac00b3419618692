"""Which function lowers which ATen op. Functions register by decorator; files under `ops/` are found by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from nomul.ir.registry import Registry

Function = Callable[..., Any]


@dataclass(frozen=True)
class Handler:
    """lazy: the function takes values of `nomul.frontend.torch.lazy` as they are; otherwise they are computed first.
    refuses: it only says why there can be no lowering."""

    function: Function
    lazy: bool = False
    refuses: bool = False


_PACKAGE = "nomul.frontend.torch.ops"
_HANDLERS: Registry[str, Handler] = Registry(_PACKAGE, "aten.{}")
_RULES: Registry[str, Function] = Registry(_PACKAGE, "the rule of aten.{}")


def aten(*names: str, lazy: bool = False, refuses: bool = False) -> Callable[[Function], Function]:
    """Declare the lowering of ATen ops: `linear` for all overloads, `max.dim` for one.

    The function takes the Lowering, then the op's operands as in its ATen schema (device, layout, pin_memory and
    memory_format are left out), and returns a value or a tuple of values."""

    def declare(function: Function) -> Function:
        for name in names:
            _HANDLERS.add(name, Handler(function, lazy, refuses))
        return function

    return declare


def rule(*names: str) -> Callable[[Function], Function]:
    """Declare what an op does to values known by formula (see `lazy.py`). The function returns None where it cannot."""
    return _RULES.declare(*names)


def names_of(target: Any) -> tuple[str, str]:
    """(`add.Tensor`, `add`) for torch.ops.aten.add.Tensor; ops of other namespaces keep theirs in front."""
    namespace, name = target._schema.name.split("::")
    packet = name if namespace == "aten" else f"{namespace}.{name}"
    return f"{packet}.{target._overloadname}", packet


def handler_of(target: Any) -> Handler | None:
    """The handler of an OpOverload, or None."""
    overload, packet = names_of(target)
    return _HANDLERS.find(overload) or _HANDLERS.find(packet)


def rule_of(target: Any) -> Function | None:
    """The formula rule of an OpOverload, or None."""
    overload, packet = names_of(target)
    return _RULES.find(overload) or _RULES.find(packet)


@cache
def further_decompositions() -> dict[Any, Function]:
    """Decompositions that torch has beyond those of its core operators, of operators that real models use."""
    from torch._decomp import get_decompositions

    aten_ops = torch.ops.aten
    packets = (aten_ops.grid_sampler_2d, aten_ops.native_dropout)
    return get_decompositions(packets)


def lowered_ops() -> list[str]:
    """The names of all ops that have a lowering."""
    return sorted(name for name, handler in _HANDLERS.all().items() if not handler.refuses)
