"""Complex numbers as two tensors, their real and imaginary parts: no type of the IR holds both.

What makes them, and arithmetic of them, is in `ops/complex.py`; other operators move or convert both parts alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nomul.frontend.torch.lazy import Lazy
from nomul.frontend.torch.lowering import Lowering
from nomul.frontend.torch.registry import Function, names_of
from nomul.ir.graph import Value
from nomul.ir.registry import Registry

_RULES: Registry[str, Function] = Registry("nomul.frontend.torch.ops", "complex aten.{}")
_ALIKE = frozenset(
    {"_to_copy", "_unsafe_view", "alias", "cat", "clone", "contiguous", "detach", "expand", "expand_as", "flatten"}
    | {"flip", "index", "index_select", "lift_fresh_copy", "narrow", "neg", "permute", "repeat", "reshape", "roll"}
    | {"select", "slice", "split", "split_with_sizes", "squeeze", "stack", "sum", "t", "to", "transpose", "unbind"}
    | {"unflatten", "unsqueeze", "view", "view_as"}
)


@dataclass(frozen=True, eq=False)
class Complex:
    """The parts have one shape, or broadcast to it."""

    real: Value | Lazy
    imag: Value | Lazy


def on_complex(*names: str) -> Callable[[Function], Function]:
    """Declare what an ATen op does where an operand is Complex or a complex number. The function takes the Lowering and
    the operands."""
    return _RULES.declare(*names)


def has_complex(args: Any) -> bool:
    if isinstance(args, tuple | list | dict):
        return any(has_complex(arg) for arg in (args.values() if isinstance(args, dict) else args))
    return isinstance(args, Complex | complex)


def takes_complex(target: Any) -> bool:
    """Whether an operator has a lowering for complex operands."""
    packet = names_of(target)[1]
    return packet in _ALIKE or _RULES.find(packet) is not None


def call_on_complex(g: Lowering, target: Any, call: Callable[[Any], Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operator that takes_complex gives, some of whose operands are Complex. call: lowers it with real ones.
    Raises Unsupported."""
    function = _RULES.find(names_of(target)[1])
    if function is not None:
        return function(g, *args, **kwargs)
    if any(isinstance(arg, tuple | list) and len({has_complex(part) for part in arg}) > 1 for arg in args):
        raise g.unsupported("real and complex tensors together")
    if isinstance(g.node.meta["val"], torch.Tensor) and not g.meta().is_complex():
        return call(_part(args, "real"))
    with g.parts_of_complex():
        real, imag = (call(_part(args, part)) for part in ("real", "imag"))
    if isinstance(real, list | tuple):
        return [Complex(*parts) for parts in zip(real, imag, strict=True)]
    return Complex(real, imag)


def _part(args: Any, part: str) -> Any:
    if isinstance(args, tuple | list):
        return type(args)(_part(arg, part) for arg in args)
    return getattr(args, part) if isinstance(args, Complex | complex) else args
