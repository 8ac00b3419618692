"""Rows of a table that is also the weight of a product are read from where that has it packed: it is stored once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from nomul.backends.group import Group
from nomul.ir.graph import Module, Node, Weight

if TYPE_CHECKING:
    from nomul.backends.select import Choice

Choose = Callable[[Group, int, Collection[str | None]], "Choice | None"]


def share_weights(module: Module, choices: dict[str, Choice], choose: Choose) -> None:
    """Changes the choices of look-ups. choose: the kernel that reads a weight in one of some layouts, or None."""
    runs = [node for node in module.main.nodes if node.attrs.get("func") in choices]
    packed: dict[Weight, set[str | None]] = {}
    for node in runs:
        if _table(choices[node.attrs["func"]].group) is None:
            for position, weight in _encoded(node):
                packed.setdefault(weight, set()).add(choices[node.attrs["func"]].built[0].layouts.get(position))
    for node in runs:
        choice = choices[node.attrs["func"]]
        for position, weight in _encoded(node):
            layouts = packed.get(weight, set())
            if position != _table(choice.group) or choice.built[0].layouts.get(position) in layouts or not layouts:
                continue
            choices[node.attrs["func"]] = choose(choice.group, position, layouts) or choice


def _encoded(node: Node) -> list[tuple[int, Weight]]:
    """Operands that are encoded weights, with their positions."""
    return [
        (position, arg)
        for position, arg in enumerate(node.args)
        if isinstance(arg, Weight) and arg.type.encoding is not None
    ]


def _table(group: Group) -> int | None:
    """The position of the table whose rows the group looks up, or None where it does something else."""
    anchor = group.anchor
    if anchor is None or anchor.op != "index.gather" or anchor.args[0] not in group.func.params:
        return None
    return group.func.params.index(anchor.args[0])
