"""A twin of an op: the same function of torch tensors, with gradients. One family a file in `twins/`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nomul.ir.graph import Node
from nomul.ir.registry import Registry

Twin = Callable[..., Any]  # operands in order, attributes by name; it may leave out what it cannot do
_TWINS: Registry[str, Twin] = Registry("nomul.frontend.torch.blocks.twins", "twin of {}")
twin = _TWINS.declare


def twin_of(node: Node) -> Twin | None:
    """The function that computes the node with its attributes left to give, or None (`refusal` says why)."""
    return _TWINS.find(node.op)


def refusal(node: Node) -> str | None:
    """Why torch cannot compute a node, or None."""
    found = _TWINS.find(node.op)
    if found is None:
        return f"{node.op} has no gradient here"
    parameters = inspect.signature(found).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    count = sum(parameter.kind is parameter.POSITIONAL_OR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    unknown = [name for name in changed_attributes(node) if name not in names]
    if unknown or any(arg is not None for arg in node.args[count:]):
        what = f" with {', '.join(unknown)}" if unknown else " with all its operands"
        return f"{node.op}{what} has no gradient here"
    return None


def changed_attributes(node: Node) -> dict[str, Any]:
    """Those that are not at their defaults."""
    known = node.spec.attributes
    return {name: value for name, value in node.attrs.items() if value != known[name].default}
