"""Lists what is built in: ops, rules, passes, kernels, targets, encodings, fitters, recipes, transforms, forms of
attention, errors."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from nomul.console import table

HELP = "list ops, rules, passes, kernels, targets, encodings, fitters, recipes, transforms, forms or errors"
Rows = tuple[tuple[str, ...], list[tuple[object, ...]]]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=sorted(CATALOGUES))


def run(arguments: argparse.Namespace) -> int:
    columns, rows = CATALOGUES[arguments.what]()
    table("", columns, rows)
    return 0


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _ops() -> Rows:
    from nomul.ir.op import all_ops

    rows: list[tuple[object, ...]] = [
        (
            name,
            spec.kind.value,
            ", ".join(operand.name for operand in spec.operands),
            ", ".join(spec.attributes),
            _first_line(spec.doc),
        )
        for name, spec in sorted(all_ops().items())
    ]
    return ("op", "kind", "operands", "attributes", "meaning"), rows


def _kernels() -> Rows:
    from nomul.backends.registry import all_kernels

    rows: list[tuple[object, ...]] = [
        (
            kernel.name,
            kernel.op,
            kernel.encoding or "dense",
            " ".join(sorted(kernel.needs)) or "-",
            " ".join(sorted(kernel.uses)) or "-",
            str(kernel.rank),
            _first_line(kernel.build.__doc__),
        )
        for kernel in all_kernels().values()
    ]
    return ("kernel", "op", "weights", "needs", "uses", "rank", "what it does"), rows


def _targets() -> Rows:
    from nomul.backends.portable_c.targets import C_TARGETS
    from nomul.backends.target import target_names

    portable = {target.name: target.description for target in C_TARGETS.values()}
    return ("target", "description"), list((target_names() | portable).items())


def _encodings() -> Rows:
    from nomul.ir.encodings import all_encodings

    return ("encoding", "meaning"), [(name, _first_line(kind.__doc__)) for name, kind in all_encodings().items()]


def _passes() -> Rows:
    from nomul.passes.catalog import option_names, pass_classes, pass_names

    classes = pass_classes()
    rows: list[tuple[object, ...]] = []
    for name in pass_names():
        text = (classes[name] if name in classes else importlib.import_module(f"nomul.passes.rules.{name}")).__doc__
        rows.append((name, ", ".join(option_names(name)), _first_line(text)))
    return ("pass", "options", "what it does"), rows


def _rules() -> Rows:
    from nomul.passes.rule import all_rules

    rows: list[tuple[object, ...]] = [(rule.name, _first_line(rule.__doc__)) for rule in all_rules().values()]
    return ("rule", "what it rewrites"), rows


def _fitters() -> Rows:
    from nomul.passes.fit import all_fitters

    rows: list[tuple[object, ...]] = [
        (name, ", ".join(found.fits or ("all",)), _first_line(found.function.__doc__))
        for name, found in all_fitters().items()
    ]
    return ("fitter", "encodings", "how it chooses the bytes"), rows


def _transforms() -> Rows:
    from nomul.passes.transforms import all_transforms

    rows: list[tuple[object, ...]] = [
        (name, ", ".join(f"{key}={value:g}" for key, value in kind.options.items()), _first_line(kind.__doc__))
        for name, kind in all_transforms().items()
    ]
    return ("transform", "options", "what it does"), rows


def _forms() -> Rows:
    from nomul.passes.exchange import all_forms

    rows: list[tuple[object, ...]] = [
        (name, ", ".join(_option_text(field) for field in fields(kind)), _first_line(kind.__doc__))
        for name, kind in all_forms().items()
    ]
    return ("form", "options", "attention that a recipe may ask for"), rows


def _option_text(field: Field[Any]) -> str:
    return field.name if field.default in (MISSING, "") else f"{field.name}={field.default}"


def _recipes() -> Rows:
    from nomul.recipe import built_in

    titles = {name: text.partition("\n")[0].lstrip("# ") for name, text in built_in().items()}
    return ("recipe", "what it does"), list(titles.items())


def _errors() -> Rows:
    from nomul.explain import all_explanations

    return ("code", "title"), [(item.code, item.title) for item in all_explanations().values()]


CATALOGUES: dict[str, Callable[[], Rows]] = {
    "ops": _ops,
    "kernels": _kernels,
    "targets": _targets,
    "encodings": _encodings,
    "passes": _passes,
    "rules": _rules,
    "fitters": _fitters,
    "recipes": _recipes,
    "transforms": _transforms,
    "forms": _forms,
    "errors": _errors,
}
