"""All passes by name, found by themselves: classes of `nomul.passes.*` and `nomul.passes.transforms.*`, and one
pass for each family of rules."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable
from functools import cache, partial

from nomul.ir.errors import NomulError
from nomul.ir.expressions import TextFault
from nomul.ir.registry import modules_of
from nomul.passes.base import Pass
from nomul.passes.rewrite import Rewrite
from nomul.passes.rule import rule_families


@cache
def pass_classes() -> dict[str, type[Pass]]:
    """Every pass class that needs no arguments, by name."""
    found: dict[str, type[Pass]] = {}
    for module in (*modules_of("nomul.passes"), *modules_of("nomul.passes.transforms")):
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, Pass) and kind.name:
                found[kind.name] = kind
    return dict(sorted(found.items()))


def pass_names() -> list[str]:
    """What `nomul opt -p` takes."""
    return sorted([*pass_classes(), *rule_families()])


def make_passes(text: str) -> list[Pass]:
    """The passes of `a,b{option=value},c`. Raises NomulError as `make_pass`."""
    return [make_pass(part) for part in _split(text)]


def make_pass(text: str) -> Pass:
    """A pass by name, with options in braces behind it: `encode{weights="ternary<planes=2>", role=linear}`.

    Raises NomulError: NM456 for an unknown pass, NM463 for options that it does not have."""
    name, brace, rest = text.strip().partition("{")
    if name not in rule_families() and name not in pass_classes():
        near = difflib.get_close_matches(name, pass_names(), 3, 0.6)
        known = f"did you mean {' or '.join(near)}?" if near else f"passes: {', '.join(pass_names())}"
        raise NomulError("NM456", f"there is no pass '{name}'", help=known)
    names = option_names(name)
    try:
        if brace and not rest.endswith("}"):
            raise ValueError("the brace is not closed")
        options = dict(_option(part, names) for part in _split(rest.removesuffix("}")))
        return _maker(name)(**options)
    except (TextFault, TypeError, ValueError) as error:
        help = f"options: {', '.join(names) or 'none'}"
        raise NomulError("NM463", f"options of pass '{name}': {error}", help=help) from None


def option_names(name: str) -> list[str]:
    """What may stand in braces behind the name of a pass."""
    parameters = inspect.signature(_maker(name)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def _maker(name: str) -> Callable[..., Pass]:
    return partial(Rewrite, name) if name in rule_families() else pass_classes()[name].of


def _option(text: str, known: list[str]) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or name not in known:
        raise ValueError(f"it has no option '{name}'" if equals else f"'{text.strip()}' is not NAME=VALUE")
    return name, str(json.loads(value)) if value.startswith('"') else value


def _split(text: str) -> list[str]:
    """The parts between commas that stand outside of quotes and brackets."""
    parts, depth, quoted, start = [], 0, False, 0
    for at, letter in enumerate(text):
        if letter == '"':
            quoted = not quoted
        elif not quoted:
            depth += (letter in "{<[") - (letter in "}>]")
        if letter == "," and depth == 0 and not quoted:
            parts.append(text[start:at])
            start = at + 1
    return [part for part in [*parts, text[start:]] if part.strip()]
