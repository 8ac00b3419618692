"""All passes by name, found by themselves: classes of `nomul.passes.*` and one pass for each family of rules."""

from __future__ import annotations

import inspect
from functools import cache

from nomul.ir.errors import NomulError
from nomul.ir.registry import modules_of
from nomul.passes.base import Pass
from nomul.passes.rewrite import Rewrite
from nomul.passes.rule import rule_families


@cache
def pass_classes() -> dict[str, type[Pass]]:
    """Every pass class that needs no arguments, by name."""
    found: dict[str, type[Pass]] = {}
    for module in modules_of("nomul.passes"):
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Pass) and kind.name:
                found[kind.name] = kind
    return dict(sorted(found.items()))


def pass_names() -> list[str]:
    """What `nomul opt -p` takes."""
    return sorted([*pass_classes(), *rule_families()])


def make_pass(name: str) -> Pass:
    """A pass by name. Raises NomulError (NM456) for an unknown one."""
    if name in rule_families():
        return Rewrite(name)
    if name not in pass_classes():
        raise NomulError("NM456", f"there is no pass '{name}'", help=f"passes: {', '.join(pass_names())}")
    return pass_classes()[name]()
